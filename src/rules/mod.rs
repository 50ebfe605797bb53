//! Who may do what, and what is allowed: parties and their file, identities, rights, limits, refusals. Pure.

pub(crate) mod access;
pub(crate) mod identity;
pub mod limits;
pub mod mistake;
pub mod parties;
pub(crate) mod party_uri;
pub(crate) mod refusal;
pub(crate) mod regular;
pub(crate) mod text;
