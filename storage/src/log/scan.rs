//! Reads a segment from some place on, frame by frame, and reports what lies between the valid frames.
//!
//! Invariant: a valid frame is always reported, whatever comes before it; bytes that are not valid are never interpreted.

use std::io;

use crate::log::disk::DiskFile;
use crate::log::frame::{ALIGN, HEADER_BYTES, Header, NotAFrame, Place, magic};
use crate::log::segment::PAGE;

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

/// What a scan finds.
#[derive(Debug)]
pub(crate) enum ScanFinding<'a> {
    /// A valid frame: its place, header and body.
    Frame(Place, Header, &'a [u8]),
    /// A frame of a kind that a newer version wrote.
    Unknown(Place, u8),
    /// Bytes that are not a frame, with a frame after them: offset and length.
    Damaged(u64, u64),
}

/// How the log of a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Where the next frame will be written.
    pub(crate) offset: u64,
    /// Bytes of an unfinished frame there; 0 for a clean end.
    pub(crate) torn: u64,
}

struct SegmentReader<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    window: Vec<u8>,
    start: u64,
}

impl SegmentReader<'_> {
    /// `len` bytes at `offset`; fewer at the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(self.size.saturating_sub(offset) as usize);
        let have = self.start + self.window.len() as u64;
        if offset < self.start || offset + len as u64 > have {
            let want = len.max(WINDOW).min((self.size - offset) as usize);
            self.window.resize(want, 0);
            let n = self.file.read_at(&mut self.window, offset)?;
            self.window.truncate(n);
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.window[at..self.window.len().min(at + len)])
    }

    fn header(&mut self, place: Place) -> io::Result<Result<Header, NotAFrame>> {
        let bytes = self.get(place.offset.into(), HEADER_BYTES)?;
        Ok(match <&[u8; HEADER_BYTES]>::try_from(bytes) {
            Ok(bytes) => Header::decode(bytes, place),
            Err(_) => Err(NotAFrame::Zero),
        })
    }

    /// The next frame header at or after `from` and before `until`.
    fn search(&mut self, segment: u32, from: u64, until: u64) -> io::Result<Option<u64>> {
        let mut at = from.next_multiple_of(ALIGN);
        while at + HEADER_BYTES as u64 <= until {
            let bytes = self.get(at, WINDOW)?;
            let usable = bytes.len();
            if usable < HEADER_BYTES {
                return Ok(None);
            }
            let hits: Vec<u64> = bytes
                .chunks_exact(ALIGN as usize)
                .enumerate()
                .filter(|(_, chunk)| chunk[..4] == magic())
                .map(|(i, _)| at + i as u64 * ALIGN)
                .collect();
            for hit in hits {
                if hit >= until {
                    return Ok(None);
                }
                let place = Place { segment, offset: hit as u32 };
                if matches!(self.header(place)?, Ok(_) | Err(NotAFrame::UnknownKind(..))) {
                    return Ok(Some(hit));
                }
            }
            at += (usable as u64 / ALIGN) * ALIGN;
        }
        Ok(None)
    }
}

/// Scans the segment from `from` on. After a bad place, frames are searched for up to the end of the file.
pub(crate) fn scan(
    file: &dyn DiskFile,
    segment: u32,
    from: u64,
    mut each: impl FnMut(ScanFinding<'_>) -> io::Result<()>,
) -> io::Result<SegmentEnd> {
    let size = file.len()?;
    let mut reader = SegmentReader { file, size, window: Vec::new(), start: 0 };
    let mut at = from;
    loop {
        if at + HEADER_BYTES as u64 > size {
            // A segment ends in zeros; in a file that was cut short, half a header may be the last thing in it.
            let rest = reader.get(at.min(size), HEADER_BYTES)?;
            let torn = if rest.iter().all(|b| *b == 0) { 0 } else { rest.len() as u64 };
            return Ok(SegmentEnd { offset: at, torn });
        }
        let place = Place { segment, offset: at as u32 };
        let mut bad_len = 0;
        let mut is_header = false;
        match reader.header(place)? {
            Ok(header) => {
                let end = HEADER_BYTES + header.body_len as usize;
                let bytes = reader.get(at, end)?;
                if bytes.len() == end && crc32fast::hash(&bytes[HEADER_BYTES..]) == header.body_crc {
                    each(ScanFinding::Frame(place, header, &bytes[HEADER_BYTES..]))?;
                    at += header.frame_len();
                    continue;
                }
                bad_len = header.frame_len();
                is_header = true;
            }
            Err(NotAFrame::UnknownKind(kind, frame_len)) => {
                each(ScanFinding::Unknown(place, kind))?;
                at += frame_len;
                continue;
            }
            // A batch ends with a zero header; anything else is what a torn write left, to the end of its page.
            Err(NotAFrame::Garbage) => bad_len = PAGE - at % PAGE,
            Err(NotAFrame::Zero) => {}
        }
        // After a valid header the place of the next frame is known; what lies in its body is a payload. No frame is shorter
        // than its header.
        let next = at + if is_header { bad_len } else { HEADER_BYTES as u64 };
        match reader.search(segment, next, size)? {
            Some(next) => {
                each(ScanFinding::Damaged(at, next - at))?;
                at = next;
            }
            None => return Ok(SegmentEnd { offset: at, torn: bad_len.min(size - at) }),
        }
    }
}
