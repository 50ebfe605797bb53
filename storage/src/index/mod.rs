//! The index: which message is where, what is pending, and what was delivered; recent ones in memory, older ones on disk.

pub(crate) mod checkpoint;
pub(crate) mod entry;
pub(crate) mod key;
pub(crate) mod maps;
pub(crate) mod memory;
pub(crate) mod on_disk;
pub(crate) mod seen_deliveries;
pub(crate) mod segment_account;
pub(crate) mod sends;
