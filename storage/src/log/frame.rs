//! The bytes of one frame: a header with its own checksum, then a body (fields, then payload), padded to a multiple of 8
//! bytes.
//!
//! ```text
//! offset  size  header
//!      0     4  magic "PNF1"
//!      4     1  kind
//!      5     1  reserved, 0
//!      6     2  length of the fields in bytes
//!      8     4  length of the body in bytes (fields + payload)
//!     12     4  CRC-32 (IEEE) of the body
//!     16     8  sequence: of the message, or of the message a record is about
//!     24     4  service time in seconds
//!     28     4  reserved, 0
//!     32     4  id of the segment
//!     36     4  CRC-32 of bytes 0..36 and of the frame's offset in the segment (u32)
//! ```
//!
//! Invariant: a frame that decodes was written at this offset of this segment. Old bytes in a recycled segment and misplaced
//! frames do not pass as valid, because segment id and offset are in the checksum.

use crate::face::direction::Class;
use crate::face::message::{Incarnation, SendKey};
use crate::log::codec::{Fields, PutFields, Short};

/// Bytes of a frame header.
pub(crate) const HEADER_BYTES: usize = 40;
const MAGIC: u32 = u32::from_le_bytes(*b"PNF1");
/// Frames start at multiples of this many bytes.
pub(crate) const ALIGN: u64 = 8;
/// Payload bytes of one slice of a large message.
pub(crate) const SLICE_BYTES: usize = 256 << 10;
/// Longest body: a slice, or the extents of the largest message, and the fields.
pub(crate) const MAX_BODY_BYTES: u32 = 4 << 20;

/// What a frame contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A whole message.
    Message = 1,
    /// A slice of a large message.
    Part = 2,
    /// The end of a large message: its fields, and where its slices are. It counts from here on.
    Commit = 3,
    /// Nothing more is owed for a message, or its reader no longer needs it.
    Settle = 4,
    /// A message became a dead letter.
    Dead = 5,
    /// Messages were handed to readers.
    Read = 6,
    /// Another key of a send names a message that is already held.
    Named = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Part,
            3 => Self::Commit,
            4 => Self::Settle,
            5 => Self::Dead,
            6 => Self::Read,
            7 => Self::Named,
            _ => return None,
        })
    }
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Place {
    /// Segment id.
    pub(crate) segment: u32,
    /// Offset in it, in bytes.
    pub(crate) offset: u32,
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) fields_len: u16,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) sequence: u64,
    pub(crate) time: u32,
}

/// Why bytes are not a frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAFrame {
    /// They are all zero: nothing was written here.
    Zero,
    /// Anything else.
    Garbage,
    /// The header is valid, but its kind is not known to this version: kind, and bytes of the frame on disk.
    UnknownKind(u8, u64),
}

pub(crate) fn header_crc(bytes: &[u8], offset: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..36]);
    crc.update(&offset.to_le_bytes());
    crc.finalize()
}

impl Header {
    /// Appends the header, encoded for `place`.
    pub(crate) fn encode(&self, place: Place, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(MAGIC);
        out.put_u8(self.kind as u8);
        out.put_u8(0);
        out.put_u16(self.fields_len);
        out.put_u32(self.body_len);
        out.put_u32(self.body_crc);
        out.put_u64(self.sequence);
        out.put_u32(self.time);
        out.put_u32(0);
        out.put_u32(place.segment);
        let crc = header_crc(&out[start..], place.offset);
        out.put_u32(crc);
    }

    /// Decodes the header at `place`.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], place: Place) -> Result<Self, NotAFrame> {
        if bytes.iter().all(|b| *b == 0) {
            return Err(NotAFrame::Zero);
        }
        let (header, segment) = Self::fields(bytes).map_err(|Short| NotAFrame::Garbage)?;
        let kind = Kind::from_byte(bytes[4]);
        let crc = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
        if bytes[..4] != MAGIC.to_le_bytes()
            || segment != place.segment
            || crc != header_crc(bytes, place.offset)
            || header.body_len > MAX_BODY_BYTES
            || u32::from(header.fields_len) > header.body_len
        {
            return Err(NotAFrame::Garbage);
        }
        match kind {
            Some(kind) => Ok(Self { kind, ..header }),
            None => Err(NotAFrame::UnknownKind(bytes[4], header.frame_len())),
        }
    }

    fn fields(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), Short> {
        let mut f = Fields(&bytes[6..]);
        let header = Self {
            kind: Kind::Message,
            fields_len: f.u16()?,
            body_len: f.u32()?,
            body_crc: f.u32()?,
            sequence: f.u64()?,
            time: f.u32()?,
        };
        f.u32()?;
        Ok((header, f.u32()?))
    }

    /// Bytes of the frame on disk, padding included.
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(self.body_len)
    }
}

/// Bytes on disk of a frame with a body of `body_len` bytes.
pub(crate) fn frame_len(body_len: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(body_len)).next_multiple_of(ALIGN)
}

/// First bytes of every frame, for searching.
pub(crate) fn magic() -> [u8; 4] {
    MAGIC.to_le_bytes()
}

/// The key of a send, and the CRC-32 of the whole content, as stored in a message's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyedContent {
    pub(crate) key: SendKey,
    pub(crate) content_crc: u32,
}

/// The fields of a message or commit frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageFields<'a> {
    pub(crate) class: Class,
    /// Receiver of an outgoing message, sender of an incoming one; empty where unnamed.
    pub(crate) party: &'a str,
    pub(crate) id: &'a str,
    pub(crate) incarnation: Incarnation,
    /// Delivery number; 0 if the message has no delivery identity.
    pub(crate) number: u64,
    pub(crate) low_water: u64,
    /// Position of the incarnation in the order in which this sender's were first seen.
    pub(crate) ordinal: u32,
    /// Payload bytes of the whole message.
    pub(crate) len: u64,
    /// For a large message, the segment of its first slice; otherwise 0.
    pub(crate) first_segment: u32,
    /// The key that the client gave to the send. Frames of earlier versions have none.
    pub(crate) keyed: Option<KeyedContent>,
}

impl<'a> MessageFields<'a> {
    /// Offset of the segment of the first slice in encoded fields.
    pub(crate) fn first_segment_at(bytes: &[u8]) -> Result<usize, Short> {
        let mut f = Fields(bytes);
        f.u8()?;
        let (party, id) = (f.text()?.len(), f.text()?.len());
        let at = 1 + 2 + party + 2 + id + 8 + 8 + 8 + 8 + 4 + 8;
        if bytes.len() < at + 4 { Err(Short) } else { Ok(at) }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.class as u8);
        out.put_text(self.party);
        out.put_text(self.id);
        out.put_u64(self.incarnation.started_ms);
        out.put_u64(self.incarnation.random);
        out.put_u64(self.number);
        out.put_u64(self.low_water);
        out.put_u32(self.ordinal);
        out.put_u64(self.len);
        out.put_u32(self.first_segment);
        if let Some(KeyedContent { key: SendKey(key), content_crc }) = &self.keyed {
            out.put(key);
            out.put_u32(*content_crc);
        }
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Short> {
        let mut f = Fields(bytes);
        let fields = Self {
            class: Class::from_byte(f.u8()?).ok_or(Short)?,
            party: f.text()?,
            id: f.text()?,
            incarnation: Incarnation { started_ms: f.u64()?, random: f.u64()? },
            number: f.u64()?,
            low_water: f.u64()?,
            ordinal: f.u32()?,
            len: f.u64()?,
            first_segment: f.u32()?,
            keyed: None,
        };
        if f.0.is_empty() {
            return Ok(fields);
        }
        let key = SendKey(f.take(SendKey::BYTES)?.try_into().map_err(|_| Short)?);
        Ok(Self { keyed: Some(KeyedContent { key, content_crc: f.u32()? }), ..fields })
    }
}

/// Where one slice of a large message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) place: Place,
    /// Payload bytes in it.
    pub(crate) len: u32,
}

/// Bytes of one extent in a commit frame.
pub(crate) const EXTENT_BYTES: usize = 12;

/// The slices of a large message, as its commit frame lists them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Slices {
    /// The sequence in the slices' headers, if it is not the message's own: they were written before the message had one.
    pub(crate) of: Option<u64>,
    pub(crate) extents: Vec<Extent>,
}

impl Slices {
    /// Encodes the list. If it has a sequence of its own, it begins with that; the length shows it (12 bytes per extent, or
    /// 8 more).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(of) = self.of {
            out.put_u64(of);
        }
        for extent in &self.extents {
            out.put_u32(extent.place.segment);
            out.put_u32(extent.place.offset);
            out.put_u32(extent.len);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Short> {
        let mut f = Fields(bytes);
        let of = if bytes.len() % EXTENT_BYTES == 8 { Some(f.u64()?) } else { None };
        let mut extents = Vec::with_capacity(bytes.len() / EXTENT_BYTES);
        while !f.0.is_empty() {
            let place = Place { segment: f.u32()?, offset: f.u32()? };
            extents.push(Extent { place, len: f.u32()? });
        }
        Ok(Self { of, extents })
    }

    /// The sequence that the slices' headers must contain.
    pub(crate) fn sequence(&self, of_message: u64) -> u64 {
        self.of.unwrap_or(of_message)
    }

    /// Payload bytes of all slices.
    pub(crate) fn len(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }
}

/// The fields of a settle frame; its sequence is that of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SettleFields {
    pub(crate) key: u128,
    pub(crate) place: Place,
    /// Whether the message was a dead letter.
    pub(crate) dead_letter: bool,
}

impl SettleFields {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u128(self.key);
        out.put_u32(self.place.segment);
        out.put_u32(self.place.offset);
        out.put_u8(u8::from(self.dead_letter));
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Short> {
        let mut f = Fields(bytes);
        Ok(Self {
            key: f.u128()?,
            place: Place { segment: f.u32()?, offset: f.u32()? },
            dead_letter: f.u8()? != 0,
        })
    }
}

/// The fields of a dead-letter frame; its sequence is that of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadFields<'a> {
    pub(crate) key: u128,
    /// Place of the message.
    pub(crate) place: Place,
    /// 0 expired, 1 refused, 2 damaged, 3 unread.
    pub(crate) reason: u8,
    pub(crate) text: &'a str,
}

impl<'a> DeadFields<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u128(self.key);
        out.put_u32(self.place.segment);
        out.put_u32(self.place.offset);
        out.put_u8(self.reason);
        out.put_text(self.text);
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Short> {
        let mut f = Fields(bytes);
        Ok(Self {
            key: f.u128()?,
            place: Place { segment: f.u32()?, offset: f.u32()? },
            reason: f.u8()?,
            text: f.text()?,
        })
    }
}

/// Checksums of a large payload's slices.
pub(crate) fn slice_crcs(payload: &[u8]) -> Vec<u32> {
    payload.chunks(SLICE_BYTES).map(crc32fast::hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { kind: Kind::Settle, fields_len: 7, body_len: 9, body_crc: 3, sequence: 77, time: 5 }
    }

    fn encoded(place: Place) -> [u8; HEADER_BYTES] {
        let mut out = Vec::new();
        header().encode(place, &mut out);
        out.try_into().expect("a header")
    }

    #[test]
    fn a_header_is_read_back_where_it_was_written() {
        let place = Place { segment: 3, offset: 4096 };
        assert_eq!(Header::decode(&encoded(place), place), Ok(header()));
    }

    #[test]
    fn a_header_elsewhere_is_garbage() {
        let bytes = encoded(Place { segment: 3, offset: 4096 });
        for place in [Place { segment: 4, offset: 4096 }, Place { segment: 3, offset: 4104 }] {
            assert_eq!(Header::decode(&bytes, place), Err(NotAFrame::Garbage));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let place = Place { segment: 3, offset: 4096 };
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = encoded(place);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes, place), Err(NotAFrame::Garbage), "bit {bit}");
        }
    }

    #[test]
    fn a_list_of_slices_is_read_back_with_and_without_a_sequence_of_its_own() {
        for of in [None, Some(77)] {
            for count in [0, 1, 2, 3, 50] {
                let extent = |n| Extent { place: Place { segment: n, offset: 4096 }, len: 9 };
                let slices = Slices { of, extents: (0..count).map(extent).collect() };
                let mut bytes = Vec::new();
                slices.encode(&mut bytes);
                assert_eq!(Slices::decode(&bytes), Ok(slices));
            }
        }
        assert_eq!(Slices::decode(&[0; 13]), Err(Short));
    }

    #[test]
    fn message_fields_are_read_back_and_never_past_their_end() {
        let fields = MessageFields {
            class: Class::Incoming,
            party: "party_a",
            id: "topic:1",
            incarnation: Incarnation { started_ms: 1, random: 2 },
            number: 3,
            low_water: 4,
            ordinal: 5,
            len: 6,
            first_segment: 7,
            keyed: None,
        };
        let mut out = Vec::new();
        fields.encode(&mut out);
        assert_eq!(MessageFields::decode(&out), Ok(fields));
        for cut in 0..out.len() {
            assert_eq!(MessageFields::decode(&out[..cut]), Err(Short));
        }
        let unkeyed = out.len();
        let keyed =
            MessageFields { keyed: Some(KeyedContent { key: SendKey([9; 16]), content_crc: 8 }), ..fields };
        out.clear();
        keyed.encode(&mut out);
        assert_eq!(MessageFields::decode(&out), Ok(keyed));
        for cut in (0..out.len()).filter(|cut| *cut != unkeyed) {
            assert_eq!(MessageFields::decode(&out[..cut]), Err(Short));
        }
        let at = MessageFields::first_segment_at(&out).expect("it has them");
        assert_eq!(out[at..at + 4], 7_u32.to_le_bytes());
        assert_eq!(MessageFields::first_segment_at(&out[..at + 3]), Err(Short));
    }
}
