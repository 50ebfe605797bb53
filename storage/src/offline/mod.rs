//! Work on the store of a stopped gateway.

pub mod inspect;
pub mod transfer;
