//! Where the log of a lane ends: found at a start, then advanced by the writer.

use std::sync::Arc;

use crate::log::disk::DiskFile;

/// Where a lane's log ends.
#[derive(Debug)]
pub(crate) struct LogEnd {
    pub(crate) segment: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size: u32,
    /// Where the next frame will be written.
    pub(crate) end: u64,
    /// What the last page holds up to there.
    pub(crate) tail: Vec<u8>,
}
