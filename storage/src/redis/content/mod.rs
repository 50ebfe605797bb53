//! What Redis keeps of a message, and how it is read back.

pub(crate) mod letters;
pub(crate) mod pieces;
pub(crate) mod record;
pub(crate) mod words;
