//! What happened: counted, and remembered for a while.

pub(crate) mod journal;
pub(crate) mod meters;
pub(crate) mod plain_reads;
pub(crate) mod recorder;
