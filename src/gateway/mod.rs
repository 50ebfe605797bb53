//! Where the parts meet: the store, its news, start, reload and shutdown.

pub(crate) mod engine;
pub mod lifecycle;
pub(crate) mod news;
pub(crate) mod reload;
