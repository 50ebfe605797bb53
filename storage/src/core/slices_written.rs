//! The slices of an upload that are in the log: noted by the writer of the bulk lane, and queried by the code that takes the
//! upload.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::frame::{Extent, Slices};

/// What the bulk lane's writer notes about an upload.
#[derive(Debug)]
pub(crate) struct SlicesWritten {
    /// Sequence in the headers of its slices.
    pub(crate) sequence: u64,
    inner: Mutex<WrittenExtents>,
}

#[derive(Debug, Default)]
struct WrittenExtents {
    extents: Vec<Extent>,
    /// Segments that hold them, in the order of writing.
    segments: Vec<u32>,
}

impl SlicesWritten {
    /// An upload whose slices have this sequence in their headers; none is written yet.
    pub(crate) fn new(sequence: u64) -> Self {
        Self { sequence, inner: Mutex::default() }
    }

    /// Notes a slice that is in the log.
    pub(crate) fn add(&self, extent: Extent) {
        let mut inner = self.inner.lock();
        if inner.segments.last() != Some(&extent.place.segment) {
            inner.segments.push(extent.place.segment);
        }
        inner.extents.push(extent);
    }

    /// Adds the segments that hold its slices.
    pub(crate) fn add_segments(&self, segments: &mut BTreeSet<u32>) {
        segments.extend(&self.inner.lock().segments);
    }

    /// The slices written so far.
    pub(crate) fn slices(&self) -> Slices {
        Slices { of: Some(self.sequence), extents: self.inner.lock().extents.clone() }
    }
}

/// A message whose slices are in the log, or ahead of it in the queue.
#[derive(Debug)]
pub(crate) struct StreamedMessage {
    pub(crate) written: Arc<SlicesWritten>,
    pub(crate) len: u64,
    /// CRC-32 of the whole content.
    pub(crate) crc: u32,
}
