//! Checkpoints: what the log does not repeat, kept in two files that are written in turn.
//!
//! A checkpoint holds, per lane, the place below which everything is dead or in the index on disk; the table of
//! segments with their dead sets; the memory of deliveries; service time and counters. Each file is preallocated and overwritten
//! in place, so that a full disk does not stop checkpoints, and the other file is intact while one is being written. Invariant:
//! a segment file is freed only after two checkpoints in a row know that nothing in it is needed, so that either file is enough
//! to start from.

use std::io;
use std::path::Path;

use roaring::RoaringBitmap;

use crate::face::message::{Incarnation, PartyId, SendKey};
use crate::index::seen_deliveries::DeliveryMemory;
use crate::index::segment_account::{Account, Digest};
use crate::index::sends::{self, KnownSend};
use crate::log::codec::{Fields, PutFields, Short};
use crate::log::disk::{Disk, OpenMode, read_exact_at, write_all_at};
use crate::log::frame::Place;
use crate::log::segment::Lane;

const MAGIC: &[u8; 8] = b"PETNCHK1";
/// Bytes before the body. If all of them are zero, there is no checkpoint.
pub(crate) const PREFIX_BYTES: usize = 8 + 16 + 8 + 8 + 4;
/// Bytes reserved for a checkpoint, so that one can be written on a full disk.
const RESERVED_BYTES: u64 = 1 << 20;
pub(crate) const FILES: [&str; 2] = ["CHECKPOINT.0", "CHECKPOINT.1"];

/// The content of a checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoint {
    pub(crate) generation: u64,
    pub(crate) service_seconds: u32,
    pub(crate) last_sequence: u64,
    pub(crate) next_segment: u32,
    pub(crate) last_incarnation_ms: u64,
    /// Replay starts here.
    pub(crate) positions: [Place; 2],
    pub(crate) parties: Vec<PartyId>,
    pub(crate) incarnations: Vec<Incarnation>,
    pub(crate) delivered: DeliveryMemory,
    pub(crate) segments: Vec<(u32, Account)>,
    /// Keys of sends, oldest first.
    pub(crate) sends: Vec<(SendKey, KnownSend)>,
}

fn encode_account(id: u32, account: &Account, out: &mut Vec<u8>) {
    out.put_u32(id);
    out.put_u8(account.lane as u8);
    out.put_u32(account.size);
    out.put_u32(account.newest_incoming);
    out.put_u8(u8::from(account.was_empty));
    out.put_u32(account.cold.count);
    out.put_u64(account.cold.sum);
    out.put_u32(account.dead.serialized_size() as u32);
    // Writing to a vector cannot fail.
    account.dead.serialize_into(&mut *out).unwrap_or_default();
}

fn decode_account(f: &mut Fields<'_>) -> Result<(u32, Account), Short> {
    let id = f.u32()?;
    let lane = if f.u8()? == 0 { Lane::Small } else { Lane::Bulk };
    let mut account = Account::new(lane, f.u32()?, 0);
    account.newest_incoming = f.u32()?;
    account.was_empty = f.u8()? != 0;
    account.cold = Digest { count: f.u32()?, sum: f.u64()? };
    let len = f.u32()? as usize;
    account.dead = RoaringBitmap::deserialize_from(f.take(len)?).map_err(|_| Short)?;
    Ok((id, account))
}

impl Checkpoint {
    /// Encodes the body, with as many of the newest keys of sends as fit into `room` bytes, prefix included.
    fn encode_body(&self, room: u64) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(self.service_seconds);
        out.put_u64(self.last_sequence);
        out.put_u32(self.next_segment);
        out.put_u64(self.last_incarnation_ms);
        for position in self.positions {
            out.put_u32(position.segment);
            out.put_u32(position.offset);
        }
        out.put_u32(self.parties.len() as u32);
        for party in &self.parties {
            out.put_text(party.as_str());
        }
        out.put_u32(self.incarnations.len() as u32);
        for incarnation in &self.incarnations {
            out.put_u64(incarnation.started_ms);
            out.put_u64(incarnation.random);
        }
        self.delivered.encode(&mut out);
        out.put_u32(self.segments.len() as u32);
        for (id, account) in &self.segments {
            encode_account(*id, account, &mut out);
        }
        self.delivered.encode_floors(&mut out);
        let left = room.saturating_sub((PREFIX_BYTES + out.len()) as u64);
        sends::encode(&self.sends, usize::try_from(left).unwrap_or(usize::MAX), &mut out);
        out
    }

    fn decode_body(generation: u64, body: &[u8]) -> Result<Self, Short> {
        let mut f = Fields(body);
        let mut checkpoint = Self {
            generation,
            service_seconds: f.u32()?,
            last_sequence: f.u64()?,
            next_segment: f.u32()?,
            last_incarnation_ms: f.u64()?,
            ..Self::default()
        };
        for position in &mut checkpoint.positions {
            *position = Place { segment: f.u32()?, offset: f.u32()? };
        }
        for _ in 0..f.u32()? {
            checkpoint.parties.push(PartyId::new(f.text()?).map_err(|_| Short)?);
        }
        for _ in 0..f.u32()? {
            checkpoint.incarnations.push(Incarnation { started_ms: f.u64()?, random: f.u64()? });
        }
        checkpoint.delivered = DeliveryMemory::decode(&mut f)?;
        for _ in 0..f.u32()? {
            checkpoint.segments.push(decode_account(&mut f)?);
        }
        // Checkpoints of earlier versions end here.
        checkpoint.delivered.decode_floors(&mut f)?;
        checkpoint.sends = sends::decode(&mut f)?;
        Ok(checkpoint)
    }

    /// Writes and syncs the checkpoint to its file. An error leaves the other file as it was. If the disk has no room for all of
    /// it, keys of sends are left out, oldest first: the file has room for the rest.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path, store_id: u128) -> io::Result<()> {
        let file = disk.open(&dir.join(FILES[(self.generation % 2) as usize]), OpenMode::Existing)?;
        let has_room = file.len()?;
        let all = self.encoded(store_id, u64::MAX);
        let is_longer = all.len() as u64 > has_room;
        match write_all_at(&*file, &all, 0) {
            Err(error) if is_longer && !self.sends.is_empty() && is_full(&error) => {
                write_all_at(&*file, &self.encoded(store_id, has_room), 0)?;
            }
            written => written?,
        }
        file.sync_data()
    }

    fn encoded(&self, store_id: u128, room: u64) -> Vec<u8> {
        let body = self.encode_body(room);
        let mut out = Vec::with_capacity(PREFIX_BYTES + body.len());
        out.put(MAGIC);
        out.put_u128(store_id);
        out.put_u64(self.generation);
        out.put_u64(body.len() as u64);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out);
        crc.update(&body);
        out.put_u32(crc.finalize());
        out.put(&body);
        out
    }

    /// Creates both files, empty; the caller syncs the folder.
    pub(crate) fn create_files(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        for name in FILES {
            let file = disk.open(&dir.join(name), OpenMode::Create)?;
            if file.len()? < RESERVED_BYTES {
                file.allocate(RESERVED_BYTES)?;
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// The newest valid checkpoint, and how many files were damaged.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, store_id: u128) -> io::Result<(Option<Self>, u64)> {
        let mut newest: Option<Self> = None;
        let mut damaged = 0;
        for slot in Self::slots(disk, dir, store_id)? {
            match slot {
                CheckpointSlot::Checkpoint(found) => {
                    if newest.as_ref().is_none_or(|n| n.generation < found.generation) {
                        newest = Some(found);
                    }
                }
                CheckpointSlot::Empty => {}
                CheckpointSlot::Damaged => damaged += 1,
            }
        }
        Ok((newest, damaged))
    }

    /// What each of the two files holds.
    pub(crate) fn slots(disk: &dyn Disk, dir: &Path, store_id: u128) -> io::Result<[CheckpointSlot; 2]> {
        let [first, second] = FILES.map(|name| read_file(disk, &dir.join(name), store_id));
        Ok([first?, second?])
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Content of a checkpoint file.
#[derive(Debug)]
pub(crate) enum CheckpointSlot {
    Checkpoint(Checkpoint),
    Empty,
    Damaged,
}

fn read_file(disk: &dyn Disk, path: &Path, store_id: u128) -> io::Result<CheckpointSlot> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(CheckpointSlot::Empty),
        Err(e) => return Err(e),
    };
    let len = file.len()?;
    let mut prefix = [0; PREFIX_BYTES];
    if len < PREFIX_BYTES as u64 {
        return Ok(CheckpointSlot::Empty);
    }
    read_exact_at(&*file, &mut prefix, 0)?;
    if prefix.iter().all(|b| *b == 0) {
        return Ok(CheckpointSlot::Empty);
    }
    let decoded = || -> Result<(u64, u64, u32), Short> {
        let mut f = Fields(&prefix);
        let magic = f.take(8)?;
        let id = f.u128()?;
        if magic != MAGIC || id != store_id {
            return Err(Short);
        }
        Ok((f.u64()?, f.u64()?, f.u32()?))
    };
    let Ok((generation, body_len, crc)) = decoded() else { return Ok(CheckpointSlot::Damaged) };
    if body_len > len - PREFIX_BYTES as u64 {
        return Ok(CheckpointSlot::Damaged);
    }
    let mut body = vec![0; body_len as usize];
    read_exact_at(&*file, &mut body, PREFIX_BYTES as u64)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&prefix[..PREFIX_BYTES - 4]);
    hasher.update(&body);
    if hasher.finalize() != crc {
        return Ok(CheckpointSlot::Damaged);
    }
    Ok(Checkpoint::decode_body(generation, &body).map_or(CheckpointSlot::Damaged, CheckpointSlot::Checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::RealDisk;

    #[test]
    fn the_newest_whole_checkpoint_is_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        Checkpoint::create_files(&RealDisk, dir.path()).expect("creates");
        for generation in 1..=5 {
            let mut account = Account::new(Lane::Bulk, 1 << 20, 4096);
            account.mark_dead(8192);
            let checkpoint = Checkpoint {
                generation,
                last_sequence: generation * 10,
                parties: vec![PartyId::new("party_a").expect("valid")],
                segments: vec![(3, account)],
                ..Checkpoint::default()
            };
            checkpoint.write(&RealDisk, dir.path(), 7).expect("writes");
        }
        let (found, damaged) = Checkpoint::read(&RealDisk, dir.path(), 7).expect("reads");
        let found = found.expect("there is one");
        assert_eq!((found.generation, found.last_sequence, damaged), (5, 50, 0));
        assert!(found.segments[0].1.is_dead(8192) && !found.segments[0].1.is_dead(4096));

        let path = dir.path().join(FILES[1]);
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes[PREFIX_BYTES + 3] ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        let (found, damaged) = Checkpoint::read(&RealDisk, dir.path(), 7).expect("reads");
        assert_eq!((found.expect("the older one").generation, damaged), (4, 1));
    }
}
