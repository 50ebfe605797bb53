//! The bytes of one write: consecutive frames in whole pages; payloads are copied only if they are small.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

use crate::log::frame::{ALIGN, HEADER_BYTES, Header, Place};
use crate::log::segment::PAGE;

/// Largest write in bytes.
pub(crate) const BATCH_BYTES: u64 = 16 << 20;
/// Most bytes that can be un-synced: one batch, its padding and page.
pub(crate) const MAX_UNSYNCED: u64 = BATCH_BYTES + (1 << 20);
/// Payloads up to this many bytes are copied into the staging buffer: cheaper than a slice of their own.
const COPY_MAX: usize = 16 << 10;

#[derive(Debug)]
enum WriteBuffer {
    Staged(Range<usize>),
    Shared(Bytes),
}

/// A write that is being assembled.
#[derive(Debug)]
pub(crate) struct Batch {
    segment: u32,
    /// Where the write begins: the page that holds the log's end.
    start: u64,
    /// Where the next frame will be written.
    end: u64,
    /// Where the log ended before this write.
    old_end: u64,
    staged: Vec<u8>,
    open_from: usize,
    pieces: Vec<WriteBuffer>,
}

impl Batch {
    /// Begins a write at the `end` of the log in `segment`; `tail` is what the last page holds up to there.
    pub(crate) fn new(segment: u32, end: u64, tail: &[u8], mut staged: Vec<u8>) -> Self {
        staged.clear();
        staged.extend_from_slice(tail);
        Self {
            segment,
            start: end - tail.len() as u64,
            end,
            old_end: end,
            staged,
            open_from: 0,
            pieces: Vec::new(),
        }
    }

    /// Where the next frame will be written.
    pub(crate) fn place(&self) -> Place {
        Place { segment: self.segment, offset: self.end as u32 }
    }

    /// Bytes of the frames in this write.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.old_end
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, header: &Header, fields: &[u8], payload: &Bytes) -> Place {
        let place = self.place();
        header.encode(place, &mut self.staged);
        self.staged.extend_from_slice(fields);
        if payload.len() <= COPY_MAX {
            self.staged.extend_from_slice(payload);
        } else {
            self.close_piece();
            self.pieces.push(WriteBuffer::Shared(payload.clone()));
        }
        let len = (HEADER_BYTES + fields.len() + payload.len()) as u64;
        let padded = len.next_multiple_of(ALIGN);
        self.staged.resize(self.staged.len() + (padded - len) as usize, 0);
        self.end += padded;
        place
    }

    fn close_piece(&mut self) {
        if self.open_from < self.staged.len() {
            self.pieces.push(WriteBuffer::Staged(self.open_from..self.staged.len()));
            self.open_from = self.staged.len();
        }
    }

    /// Pads to whole pages, with room for a zero header that marks the end, within `limit`.
    pub(crate) fn finish(&mut self, limit: u64) {
        let padded = (self.end + HEADER_BYTES as u64).next_multiple_of(PAGE).min(limit);
        self.staged.resize(self.staged.len() + (padded - self.end) as usize, 0);
        self.close_piece();
    }

    /// Offset of the write in the segment.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// What to write.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                WriteBuffer::Staged(range) => IoSlice::new(&self.staged[range.clone()]),
                WriteBuffer::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect()
    }

    /// Recovers the staging buffer of a batch that is not written.
    pub(crate) fn into_staged(self) -> Vec<u8> {
        self.staged
    }

    /// The log's new end, what its last page holds up to there, and the staging buffer for the next batch.
    pub(crate) fn into_tail(self, tail: &mut Vec<u8>) -> (u64, Vec<u8>) {
        let keep = (self.end % PAGE) as usize;
        let total: usize = self.pieces.iter().map(WriteBuffer::len).sum();
        let from = (self.end - self.start) as usize - keep;
        debug_assert!(from + keep <= total, "the tail lies within the pieces");
        tail.clear();
        let mut at = 0;
        for piece in &self.pieces {
            let bytes: &[u8] = match piece {
                WriteBuffer::Staged(range) => &self.staged[range.clone()],
                WriteBuffer::Shared(bytes) => bytes,
            };
            let (lo, hi) = (from.max(at), (from + keep).min(at + bytes.len()));
            if lo < hi {
                tail.extend_from_slice(&bytes[lo - at..hi - at]);
            }
            at += bytes.len();
        }
        (self.end, self.staged)
    }
}

impl WriteBuffer {
    fn len(&self) -> usize {
        match self {
            Self::Staged(range) => range.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::Kind;

    #[test]
    fn a_batch_is_whole_pages_and_its_tail_starts_the_next() {
        for sizes in [vec![0], vec![10, 20_000, 3], vec![4000, 40_000], vec![4096 * 5 - 48]] {
            let mut batch = Batch::new(1, 4096 + 24, &[7; 24], Vec::new());
            for size in sizes {
                let payload = Bytes::from(vec![9; size]);
                let header = Header {
                    kind: Kind::Message,
                    fields_len: 3,
                    body_len: size as u32 + 3,
                    body_crc: 0,
                    sequence: 0,
                    time: 0,
                };
                batch.push(&header, b"abc", &payload);
            }
            batch.finish(1 << 20);
            let all: Vec<u8> = batch.slices().iter().flat_map(|s| s.to_vec()).collect();
            assert_eq!(all.len() as u64 % PAGE, 0);
            let mut tail = Vec::new();
            let start = batch.start();
            let (end, _) = batch.into_tail(&mut tail);
            let at = (end - start) as usize;
            assert_eq!(tail, all[at - tail.len()..at]);
            assert_eq!(tail.len() as u64, end % PAGE);
            assert!(all[at..].iter().all(|b| *b == 0) && all.len() - at >= HEADER_BYTES);
        }
    }
}
