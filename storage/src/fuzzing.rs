//! Entry points for fuzzers and for tests with junk. Not part of the interface of this crate.

use std::io::{self, IoSlice};

use crate::face::direction::Class;
use crate::face::message::{Incarnation, SendKey};
use crate::index::memory::reads::ReadNote;
use crate::index::sends::{AnotherSendKey, KnownSend, SendFingerprint};
use crate::log::disk::DiskFile;
use crate::log::frame::{
    ALIGN, DeadFields, Extent, HEADER_BYTES, Header, KeyedContent, Kind, MessageFields, Place, SettleFields,
    Slices, header_crc,
};
use crate::log::scan::{ScanFinding, SegmentEnd, scan};
use crate::log::segment::PAGE;

/// The segment that samples belong to.
const SEGMENT: u32 = 7;

/// Reads bytes as if they stood in a segment, and decodes every frame that checks out; how many decode. Panics where it
/// finds something that cannot be.
pub fn frame(bytes: &[u8]) -> usize {
    let mut decoded = 0;
    let mut content = vec![0; PAGE as usize];
    content.extend_from_slice(bytes);
    let file = Junk(content);
    let mut before = PAGE;
    let scanned = scan(&file, SEGMENT, PAGE, |found| {
        match found {
            ScanFinding::Frame(place, header, body) => {
                assert!(u64::from(place.offset) >= before, "frames come in order");
                before = u64::from(place.offset) + header.frame_len();
                assert_eq!(body.len(), header.body_len as usize);
                decoded += usize::from(decodes(&header, body));
            }
            ScanFinding::Unknown(place, _) => before = place.offset.into(),
            ScanFinding::Damaged(offset, len) => {
                assert!(len > 0 && offset + len <= file.0.len() as u64, "damage lies in the file");
            }
        }
        Ok(())
    });
    let SegmentEnd { torn, .. } =
        scanned.unwrap_or_else(|error| panic!("a file in memory cannot fail: {error}"));
    assert!(torn <= file.0.len() as u64);
    decoded
}

/// Whether the store can decode all of a frame.
fn decodes(header: &Header, body: &[u8]) -> bool {
    let (fields, rest) = body.split_at(usize::from(header.fields_len).min(body.len()));
    match header.kind {
        Kind::Message => MessageFields::decode(fields).is_ok(),
        Kind::Commit => MessageFields::decode(fields).is_ok() && Slices::decode(rest).is_ok(),
        Kind::Part => true,
        Kind::Settle => SettleFields::decode(fields).is_ok(),
        Kind::Dead => DeadFields::decode(fields).is_ok(),
        Kind::Read => ReadNote::decode(fields).is_ok(),
        Kind::Named => AnotherSendKey::decode(header.sequence, fields).is_ok(),
    }
}

/// Frames of every kind as the store writes them at the beginning of a segment, for mutations to start from.
pub fn frames() -> Vec<Vec<u8>> {
    let incarnation = Incarnation { started_ms: 1_700_000_000_000, random: 0x5eed };
    let message = |class| {
        let mut fields = Vec::new();
        let (party, id) = ("party_b", "job/1/round/2");
        let fields_of = MessageFields {
            class,
            party,
            id,
            len: 5,
            incarnation,
            number: 3,
            low_water: 2,
            ordinal: 1,
            first_segment: 0,
            keyed: (class == Class::Outgoing)
                .then_some(KeyedContent { key: SendKey([7; 16]), content_crc: 9 }),
        };
        fields_of.encode(&mut fields);
        fields
    };
    let mut extents = Vec::new();
    let slice = Extent { place: Place { segment: 1, offset: 4096 }, len: 5 };
    Slices { of: None, extents: vec![slice] }.encode(&mut extents);
    let sent = KnownSend { sequence: 1, print: SendFingerprint::new(1 << 90, 5, 9) };
    let named = AnotherSendKey { key: SendKey([8; 16]), sent, place: 3 };
    let (mut settle, mut dead) = (Vec::new(), Vec::new());
    let place = Place { segment: 1, offset: 4096 };
    SettleFields { key: 1 << 90, place, dead_letter: false }.encode(&mut settle);
    DeadFields { key: 1 << 90, place, reason: 1, text: "refused" }.encode(&mut dead);
    [
        (Kind::Message, message(Class::Outgoing), b"hello".to_vec()),
        (Kind::Message, message(Class::Incoming), Vec::new()),
        (Kind::Part, Vec::new(), vec![7; 64]),
        (Kind::Commit, message(Class::IncomingUnnamed), extents),
        (Kind::Settle, settle, Vec::new()),
        (Kind::Dead, dead, Vec::new()),
        (
            Kind::Read,
            ReadNote::encode(&[1, 2].map(|n| ReadNote { key: 1 << 90, sequence: n, time: 3 })),
            Vec::new(),
        ),
        (Kind::Named, named.encode(), Vec::new()),
    ]
    .into_iter()
    .map(|(kind, fields, payload)| sealed(kind, &fields, &payload))
    .collect()
}

fn sealed(kind: Kind, fields: &[u8], payload: &[u8]) -> Vec<u8> {
    let body = [fields, payload].concat();
    let header = Header {
        kind,
        fields_len: fields.len() as u16,
        body_len: body.len() as u32,
        body_crc: crc32fast::hash(&body),
        sequence: 9,
        time: 10,
    };
    let mut bytes = Vec::new();
    header.encode(Place { segment: SEGMENT, offset: PAGE as u32 }, &mut bytes);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(ALIGN as usize), 0);
    bytes
}

/// Makes the checksums of a frame right again, so that what is wrong with it gets past them.
pub fn reseal(bytes: &mut [u8]) {
    let Some((header, body)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return };
    let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let body = &body[..len.min(body.len())];
    header[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    header[32..36].copy_from_slice(&SEGMENT.to_le_bytes());
    let crc = header_crc(header, PAGE as u32);
    header[36..40].copy_from_slice(&crc.to_le_bytes());
}

/// Numbers that look random and come again with their seed (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Every seed gives its own numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    /// A string of random bytes, at most so many.
    pub fn bytes(&mut self, limit: usize) -> Vec<u8> {
        (0..self.below(limit + 1)).map(|_| self.below(256) as u8).collect()
    }

    /// Something like one of `samples`, with a few things wrong: bits, bytes, lengths, ends, parts of others.
    pub fn mutated(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = samples[self.below(samples.len())].clone();
        for _ in 0..=self.below(4) {
            self.mutate(&mut bytes, samples);
        }
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            _ if bytes.is_empty() => bytes.extend(self.bytes(64)),
            0 => bytes.truncate(at),
            1 => bytes.splice(at.., samples[self.below(samples.len())].clone()).for_each(drop),
            2 => bytes.splice(at..at, self.bytes(16)).for_each(drop),
            3 => {
                let end = (at + self.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                // A number at its ends, wherever numbers may be.
                let extreme = [0, 1, 0x7f, 0x80, 0xff][self.below(5)];
                let end = (at + 1 + self.below(8)).min(bytes.len());
                bytes[at.min(end)..end].fill(extreme);
            }
            5 => {
                let again = bytes.clone();
                bytes.extend(&again[at..]);
            }
            kind => {
                let at = at.min(bytes.len() - 1);
                bytes[at] = if kind == 6 { bytes[at] ^ 1 << self.below(8) } else { self.below(256) as u8 };
            }
        }
    }
}

/// A file that only has its bytes.
#[derive(Debug)]
struct Junk(Vec<u8>);

impl DiskFile for Junk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: usize = 1_000_000;

    #[test]
    fn junk_for_frames_is_an_answer_and_never_a_panic() {
        let seed = std::env::var("PETNET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        let mut dice = Dice::new(seed);
        let samples = frames();
        assert!(samples.iter().all(|sample| frame(sample) == 1));
        let mut decoded = 0;
        for n in 0..STRINGS {
            let mut bytes = if n % 10 == 0 { dice.bytes(300) } else { dice.mutated(&samples) };
            if n % 2 == 0 {
                reseal(&mut bytes);
            }
            decoded += frame(&bytes);
        }
        assert!(
            (STRINGS / 100..STRINGS).contains(&decoded),
            "{decoded} decode: junk is to be bad, not too bad"
        );
        println!(
            "junk: {STRINGS} strings into the frame decoder ({decoded} decode), PETNET_SEED={seed} replays it"
        );
    }

    #[test]
    fn resealed_frames_get_past_the_checksums() {
        for sample in frames() {
            let mut bytes = sample.clone();
            reseal(&mut bytes);
            assert_eq!(bytes, sample);
        }
    }
}
