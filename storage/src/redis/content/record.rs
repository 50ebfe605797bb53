//! What Redis keeps of a message: facts that a script adds, then what the gateway made of it.
//!
//! ```text
//! sequence 16  number 16  service time 16  incarnation 32  check 8     hexadecimal digits, by the script
//! CRC-32 4  class 1  kind 1  length 8  party length 2  id length 2     big-endian, by the gateway
//! party, id, then the payload, or of a large message the 32 digits that name its chunks
//! ```
//!
//! `check` is the beginning of the SHA-1 of the digits before it and of everything behind it except the payload; the CRC covers
//! everything behind itself. Invariant: a record that is not valid, or is not in the place that its sequence says, is damaged
//! and yields no bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::face::direction::Class;
use crate::face::message::{Incarnation, MessageId, PartyId};

/// What to do if the quota is used up.
pub(crate) const FULL: &str = "release or deliver messages, or raise STORE_MAX_BYTES";
/// How long chunks of a message that is not accepted yet are kept after the last request to keep them.
pub(crate) const CHUNKS_KEPT: Duration = Duration::from_secs(900);
/// Where service time begins; the scripts know it, too. Messages that were moved here may be older than this store's service
/// time.
pub(crate) const FIRST_SECOND: u64 = 1_000_000_000;

/// Digits that scripts write before what the gateway made.
const FACTS: usize = 88;
/// Bytes before party, id and content.
const FIXED: usize = 18;
/// Payload bytes of one chunk of a large message; the scripts know it, too.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Messages up to this length are kept whole.
pub(crate) const WHOLE_BYTES: usize = 512 << 10;
/// Name of the chunks of a large message.
pub(crate) const TOKEN_BYTES: usize = 32;

/// Where the content of a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// In the record.
    Whole(Bytes),
    /// In chunks under this name, with this many bytes in total.
    Chunks { token: String, len: u64 },
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Chunks { len, .. } => *len,
        }
    }
}

/// What the gateway makes of a message, to be kept in its record.
pub(crate) fn make(class: Class, party: &str, id: &str, content: &Content) -> Bytes {
    let (kind, tail): (u8, &[u8]) = match content {
        Content::Whole(bytes) => (0, bytes),
        Content::Chunks { token, .. } => (1, token.as_bytes()),
    };
    let mut made = BytesMut::with_capacity(FIXED + party.len() + id.len() + tail.len());
    made.put_u32(0);
    made.put_u8(class as u8);
    made.put_u8(kind);
    made.put_u64(content.len());
    made.put_u16(party.len() as u16);
    made.put_u16(id.len() as u16);
    made.put_slice(party.as_bytes());
    made.put_slice(id.as_bytes());
    made.put_slice(tail);
    let crc = crc32fast::hash(&made[4..]);
    made[..4].copy_from_slice(&crc.to_be_bytes());
    made.freeze()
}

/// A valid record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) number: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) class: Class,
    /// Service time of its arrival, in seconds.
    pub(crate) time: u64,
    /// Receiver or sender; `None` if the sender did not name itself.
    pub(crate) party: Option<PartyId>,
    pub(crate) id: MessageId,
    pub(crate) content: Content,
}

/// The checksum of the facts and of all that the gateway made except the payload: scripts rely on both.
fn check(facts: &[u8], front: &[u8]) -> [u8; 8] {
    let mut sha1 = sha1_smol::Sha1::from(facts);
    sha1.update(front);
    let mut check = [0; 8];
    check.copy_from_slice(&sha1.digest().to_string().as_bytes()[..8]);
    check
}

/// Reads the record of `sequence`. The error says what is wrong with it.
pub(crate) fn read(sequence: u64, bytes: &Bytes) -> Result<Record, &'static str> {
    if bytes.is_empty() {
        return Err("it is missing");
    }
    if bytes.len() < FACTS + FIXED {
        return Err("it is too short");
    }
    let (facts, made) = (bytes.slice(..FACTS), bytes.slice(FACTS..));
    if crc32fast::hash(&made[4..]).to_be_bytes() != made[..4] {
        return Err("its content does not match its checksum");
    }
    let hex = |range: std::ops::Range<usize>| {
        let digits = std::str::from_utf8(&facts[range]).map_err(|_| "its facts are no numbers")?;
        u64::from_str_radix(digits, 16).map_err(|_| "its facts are no numbers")
    };
    let wide =
        |at: usize, len: usize| made[at..at + len].iter().fold(0u64, |all, b| all << 8 | u64::from(*b));
    let class = Class::from_byte(made[4]).ok_or("its class is not known")?;
    let (len, party_len, id_len) = (wide(6, 8), wide(14, 2) as usize, wide(16, 2) as usize);
    let (id_at, tail_at) = (FIXED + party_len, FIXED + party_len + id_len);
    if made.len() < tail_at {
        return Err("it is too short");
    }
    let front = if made[5] == 1 { made.len().min(tail_at + TOKEN_BYTES) } else { tail_at };
    if check(&facts[..80], &made[..front]) != facts[80..] {
        return Err("its facts do not match their checksum");
    }
    let text = |from: usize, to: usize| std::str::from_utf8(&made[from..to]).map_err(|_| "it holds no text");
    if hex(0..16)? != sequence {
        return Err("it stands in the place of another one");
    }
    let party = match class {
        Class::IncomingUnnamed => None,
        _ => Some(PartyId::new(text(FIXED, id_at)?).map_err(|_| "its party is none")?),
    };
    let id = MessageId::new(text(id_at, tail_at)?).map_err(|_| "its id is none")?;
    let tail = made.slice(tail_at..);
    let content = match made[5] {
        0 if tail.len() as u64 == len => Content::Whole(tail),
        1 if tail.len() == TOKEN_BYTES => {
            Content::Chunks { token: String::from_utf8_lossy(&tail).into_owned(), len }
        }
        _ => return Err("its length is wrong"),
    };
    Ok(Record {
        sequence,
        number: hex(16..32)?,
        time: hex(32..48)?,
        incarnation: Incarnation { started_ms: hex(48..64)?, random: hex(64..80)? },
        class,
        party,
        id,
        content,
    })
}

/// A chunk as it is kept: its checksum (over name, number and content), then the content.
pub(crate) fn chunk(token: &str, number: u64, content: &[u8]) -> Bytes {
    let mut kept = BytesMut::with_capacity(4 + content.len());
    kept.put_u32(chunk_crc(token, number, content));
    kept.put_slice(content);
    kept.freeze()
}

/// The content of a chunk; `None` if it is damaged.
pub(crate) fn chunk_content(token: &str, number: u64, kept: &Bytes) -> Option<Bytes> {
    let content = kept.len().checked_sub(4).map(|_| kept.slice(4..))?;
    (chunk_crc(token, number, &content).to_be_bytes() == kept[..4]).then_some(content)
}

fn chunk_crc(token: &str, number: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(token.as_bytes());
    crc.update(&number.to_be_bytes());
    crc.update(content);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(made: &Bytes) -> Bytes {
        let facts = format!("{:016x}{:016x}{:016x}{:016x}{:016x}", 7, 3, 1_000_000_000, 5, 9);
        let front = made.len() - b"payload".len();
        [facts.as_bytes(), &check(facts.as_bytes(), &made[..front]), made].concat().into()
    }

    #[test]
    fn what_was_made_is_read_back_and_no_flipped_bit_passes() {
        let content = Content::Whole(Bytes::from_static(b"payload"));
        let bytes = whole(&make(Class::Incoming, "party_a", "job:1", &content));
        let record = read(7, &bytes).unwrap();
        assert_eq!((record.number, record.incarnation.random), (3, 9));
        assert_eq!((record.party.unwrap().as_str(), record.id.as_str()), ("party_a", "job:1"));
        assert_eq!(record.content, content);
        assert!(read(8, &bytes).is_err(), "it is not that of another place");
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(read(7, &flipped.into()).is_err(), "bit {at}");
        }
        for len in 0..bytes.len() {
            assert!(read(7, &bytes.slice(..len)).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_chunk_belongs_to_its_place() {
        let kept = chunk("a", 1, b"content");
        assert_eq!(chunk_content("a", 1, &kept).unwrap(), "content");
        assert_eq!(chunk_content("a", 2, &kept), None);
        assert_eq!(chunk_content("b", 1, &kept), None);
        assert_eq!(chunk_content("a", 1, &Bytes::from_static(b"xy")), None);
    }
}
