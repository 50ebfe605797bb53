//! How a damaged place is turned into one that no longer counts as damage, with as little writing as possible.
//!
//! A damaged range becomes frames of a kind that is skipped: slices with sequence 0, which no message refers to. Only the 40
//! bytes of each frame's header are written; the damaged bytes stay behind it as its body. Invariant: what is overwritten was
//! copied to `corrupt/` and synced before; repeating the work after a crash gives the same bytes.

use std::io;

use crate::log::disk::{DiskFile, write_all_at};
use crate::log::frame::{ALIGN, HEADER_BYTES, Header, Kind, Place};
use crate::log::segment::{Lane, PAGE, SegmentHeader};

/// Longest frame made to cover damage.
const COVER_BYTES: u64 = 4 << 20;

/// One change of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// The file was cut short: it is extended to its length again, with zeros.
    Lengthen { lane: Lane, id: u32, bytes: u64 },
    /// The header is rewritten, according to the file's name.
    Header { lane: Lane, id: u32, size: u64 },
    /// The range becomes frames that are skipped.
    Cover { lane: Lane, id: u32, offset: u64, len: u64 },
}

impl Mend {
    /// The segment that it changes.
    pub(super) fn segment(&self) -> (Lane, u32) {
        match *self {
            Self::Lengthen { lane, id, .. }
            | Self::Header { lane, id, .. }
            | Self::Cover { lane, id, .. } => (lane, id),
        }
    }

    /// Offset and length of the bytes that must be copied first.
    pub(super) fn overwrites(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Lengthen { .. } => None,
            Self::Header { size, .. } => Some((0, PAGE.min(size))),
            Self::Cover { offset, len, .. } => Some((offset, len)),
        }
    }

    /// Applies the change to the segment's file. The caller syncs it.
    pub(super) fn apply(&self, file: &dyn DiskFile, store_id: u128) -> io::Result<()> {
        match *self {
            Self::Lengthen { bytes, .. } => file.allocate(bytes),
            Self::Header { lane, id, size } => {
                write_all_at(file, &SegmentHeader { store_id, lane, id, size }.encode(), 0)
            }
            Self::Cover { id, offset, len, .. } => cover(file, id, offset, len),
        }
    }
}

/// Lengths of the frames that cover `len` bytes. Each has room for its header.
fn pieces(len: u64) -> Vec<u64> {
    let mut rest = len / ALIGN * ALIGN;
    let mut pieces = Vec::new();
    while rest > COVER_BYTES {
        // The remainder must hold a header, too.
        let piece = if rest - COVER_BYTES < HEADER_BYTES as u64 { COVER_BYTES / 2 } else { COVER_BYTES };
        pieces.push(piece);
        rest -= piece;
    }
    if rest >= HEADER_BYTES as u64 {
        pieces.push(rest);
    }
    pieces
}

fn cover(file: &dyn DiskFile, id: u32, offset: u64, len: u64) -> io::Result<()> {
    let mut end = offset + len / ALIGN * ALIGN;
    // From the back: if this is interrupted, what is left to cover still begins where it began.
    for piece in pieces(len).into_iter().rev() {
        let at = end - piece;
        let mut body = vec![0; piece as usize - HEADER_BYTES];
        crate::log::disk::read_exact_at(file, &mut body, at + HEADER_BYTES as u64)?;
        let header = Header {
            kind: Kind::Part,
            fields_len: 0,
            body_len: body.len() as u32,
            body_crc: crc32fast::hash(&body),
            sequence: 0,
            time: 0,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        header.encode(Place { segment: id, offset: at as u32 }, &mut bytes);
        write_all_at(file, &bytes, at)?;
        end = at;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_the_range_and_each_holds_a_header() {
        let whole = COVER_BYTES;
        for len in [40, 48, 4096, whole - 8, whole, whole + 8, whole + 32, whole + 40, 3 * whole + 16] {
            let pieces = pieces(len);
            assert_eq!(pieces.iter().sum::<u64>(), len);
            assert!(pieces.iter().all(|p| (40..=whole).contains(p) && p % ALIGN == 0), "{len}: {pieces:?}");
        }
    }
}
