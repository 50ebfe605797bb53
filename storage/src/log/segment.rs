//! One log file: its name, its header, and where its frames begin.
//!
//! ```text
//! offset  size  header (one page of 4,096 bytes, the rest zero)
//!      0     8  magic "PETNSEG1"
//!      8     4  format version
//!     12    16  store id
//!     28     1  lane (0 small, 1 bulk)
//!     29     4  segment id
//!     33     8  size of the file in bytes
//!     41     4  CRC-32 of bytes 0..41
//! ```
//!
//! Invariant: a segment id is never used again, so that bytes from an earlier life of a recycled file never pass as valid.

use crate::log::codec::{Fields, PutFields, Short};

/// The log is written in whole pages of this many bytes.
pub(crate) const PAGE: u64 = 4096;
/// Version of segments and frames that this code reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PETNSEG1";
const HEADER_BYTES: usize = 45;

/// Which of the two writers a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Lane {
    /// Messages under [`BULK_FROM_BYTES`], and records about them.
    Small = 0,
    /// Messages of [`BULK_FROM_BYTES`] and more.
    Bulk = 1,
}

/// Both lanes.
pub(crate) const LANES: [Lane; 2] = [Lane::Small, Lane::Bulk];
/// Payloads of this many bytes and more go to the bulk lane.
pub(crate) const BULK_FROM_BYTES: usize = 64 << 10;

impl Lane {
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Small => Self::Bulk,
            Self::Bulk => Self::Small,
        }
    }
}

/// A decoded segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: u128,
    pub(crate) lane: Lane,
    pub(crate) id: u32,
    pub(crate) size: u64,
}

/// Why a page is not a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotASegment {
    /// It is not valid.
    Garbage,
    /// It was written by a newer version.
    Newer(u32),
}

impl SegmentHeader {
    /// Encodes the header as a whole page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.put(MAGIC);
        page.put_u32(FORMAT_VERSION);
        page.put_u128(self.store_id);
        page.put_u8(self.lane as u8);
        page.put_u32(self.id);
        page.put_u64(self.size);
        let crc = crc32fast::hash(&page);
        page.put_u32(crc);
        page.resize(PAGE as usize, 0);
        page
    }

    /// Decodes a header page.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, NotASegment> {
        let garbage = |Short| NotASegment::Garbage;
        let mut f = Fields(page);
        if f.take(8).map_err(garbage)? != MAGIC {
            return Err(NotASegment::Garbage);
        }
        let version = f.u32().map_err(garbage)?;
        let mut rest = || -> Result<_, Short> { Ok((f.u128()?, f.u8()?, f.u32()?, f.u64()?, f.u32()?)) };
        let (store_id, lane, id, size, crc) = rest().map_err(garbage)?;
        if crc != crc32fast::hash(&page[..HEADER_BYTES - 4]) {
            return Err(NotASegment::Garbage);
        }
        if version != FORMAT_VERSION {
            return Err(NotASegment::Newer(version));
        }
        let lane = match lane {
            0 => Lane::Small,
            1 => Lane::Bulk,
            _ => return Err(NotASegment::Garbage),
        };
        Ok(Self { store_id, lane, id, size })
    }
}

/// A file in the `log` folder, as its name describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFile {
    /// `small-<id>.seg` or `bulk-<id>.seg`
    Segment(Lane, u32),
    /// `free-<id>.seg`: recycled, ready for use.
    Free(u32),
}

impl LogFile {
    /// The file's name.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Segment(Lane::Small, id) => format!("small-{id:010}.seg"),
            Self::Segment(Lane::Bulk, id) => format!("bulk-{id:010}.seg"),
            Self::Free(id) => format!("free-{id:010}.seg"),
        }
    }

    /// The file with this name; `None` for any other.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (kind, id) = name.strip_suffix(".seg")?.split_once('-')?;
        let id = id.parse().ok()?;
        Some(match kind {
            "small" => Self::Segment(Lane::Small, id),
            "bulk" => Self::Segment(Lane::Bulk, id),
            "free" => Self::Free(id),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_is_read_back_and_every_flipped_bit_is_seen() {
        let header = SegmentHeader { store_id: 9, lane: Lane::Bulk, id: 4, size: 1 << 20 };
        let page = header.encode();
        assert_eq!(page.len() as u64, PAGE);
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&page), Err(NotASegment::Garbage), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut page = SegmentHeader { store_id: 9, lane: Lane::Small, id: 4, size: 1 << 20 }.encode();
        page[8] = 2;
        let crc = crc32fast::hash(&page[..HEADER_BYTES - 4]);
        page[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&page), Err(NotASegment::Newer(2)));
    }

    #[test]
    fn file_names_are_read_back() {
        for file in [LogFile::Segment(Lane::Small, 7), LogFile::Segment(Lane::Bulk, 1), LogFile::Free(3)] {
            assert_eq!(LogFile::parse(&file.name()), Some(file));
        }
        assert_eq!(LogFile::parse("small-x.seg"), None);
    }
}
