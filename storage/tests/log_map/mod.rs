//! Reads log files by `docs/disk-format.md`, independently of the store: which bytes belong to which frame.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::ops::Range;

/// Bytes of the segment header's page; frames follow.
pub const PAGE: u64 = 4096;
/// Bytes of a frame's header.
pub const HEADER: u64 = 40;
/// Bytes of the segment header that say something.
pub const SEGMENT_HEADER: u64 = 45;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    Part,
    Commit,
    Settle,
    Dead,
}

/// A frame in a segment.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: Kind,
    /// Of the message, or of the one it is about.
    pub sequence: u64,
    /// Header, body and padding.
    pub bytes: Range<u64>,
    /// End of header and body.
    pub body_end: u64,
    /// End of the fields, where the payload begins.
    pub fields_end: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The frames of an undamaged segment.
pub fn frames(segment: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = PAGE as usize;
    while segment.get(at..at + 4) == Some(b"PNF1".as_slice()) {
        let body_len = u64::from(u32_at(segment, at + 8));
        let start = at as u64;
        let end = (start + HEADER + body_len).next_multiple_of(8);
        frames.push(Frame {
            kind: match segment[at + 4] {
                1 => Kind::Message,
                2 => Kind::Part,
                3 => Kind::Commit,
                4 => Kind::Settle,
                5 => Kind::Dead,
                other => panic!("frame kind {other} at {at}"),
            },
            sequence: u64::from_le_bytes(segment[at + 16..at + 24].try_into().expect("eight bytes")),
            bytes: start..end,
            body_end: start + HEADER + body_len,
            fields_end: start + HEADER + u64::from(u16::from_le_bytes([segment[at + 6], segment[at + 7]])),
        });
        at = end as usize;
    }
    frames
}

/// End of the last frame.
pub fn end(segment: &[u8]) -> u64 {
    frames(segment).last().map_or(PAGE, |f| f.bytes.end)
}

/// The CRC of a frame's header at `offset`, as it must stand in bytes 36..40 of it.
pub fn header_crc(header: &[u8], offset: u64) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..36]);
    crc.update(&(offset as u32).to_le_bytes());
    crc.finalize().to_le_bytes()
}
