//! The index on disk: sled, holding where older messages are. It is a convenience, never the truth.
//!
//! Entries come here after some seconds, by plain inserts from one thread; the payloads stay in the log. Rules for
//! sled 0.34: its `flush` does not sync, so the file is synced through our own descriptor; no batches, no
//! transactions, no `flush_async`; values stay small; an unreadable index is set aside and made anew.
//!
//! Trees: `mail` key -> entry (mailbox), `pending` (party, sequence) -> key, entry; `latest` key -> (party, sequence)
//! of the newest pending one; `dead` sequence -> key, entry, death. All keys are big-endian, so that they sort.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled::{Config, Db, IVec, Tree};

use crate::codec::{Fields, Put, Short};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::frame::{Class, Place};
use crate::state::{DeadEntry, Death, Entry};

const CACHE_BYTES: u64 = 16 << 20;
/// What sled says when another one has the index open.
const LOCKED: &str = "could not acquire lock";
/// How long to wait for a lock that a dying process may still hold.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// An error of the index. The store goes on without it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("index on disk: {0}")]
pub(crate) struct ColdError(pub(crate) String);

impl ColdError {
    /// Trouble of the machine, not of the index: full disk, too many open files.
    pub(crate) fn is_passing(&self) -> bool {
        ["os error 28", "os error 24", "os error 23", "os error 12"].iter().any(|e| self.0.contains(e))
    }

    /// Somebody else has it open.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.contains(LOCKED)
    }
}

impl From<sled::Error> for ColdError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Short> for ColdError {
    fn from(_: Short) -> Self {
        Self("an entry does not decode".into())
    }
}

/// Where the index says whose it is.
const STORE_KEY: &[u8] = b"store";

type Result<T> = std::result::Result<T, ColdError>;

/// The open index.
#[derive(Debug)]
pub(crate) struct Cold {
    db: Db,
    mail: Tree,
    pending: Tree,
    latest: Tree,
    dead: Tree,
    /// sled's file, through a descriptor of our own.
    file: Arc<dyn DiskFile>,
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.put_u64(entry.sequence);
    out.put_u64(entry.len);
    out.put_u64(entry.number);
    out.put_u32(entry.place.segment);
    out.put_u32(entry.place.offset);
    out.put_u32(entry.frame_len);
    out.put_u32(entry.first_segment);
    out.put_u32(entry.time);
    out.put_u32(entry.incarnation);
    out.put_u16(entry.party);
    out.put_u8(entry.class as u8);
}

fn decode_entry(f: &mut Fields<'_>) -> std::result::Result<Entry, Short> {
    Ok(Entry {
        sequence: f.u64()?,
        len: f.u64()?,
        number: f.u64()?,
        place: Place { segment: f.u32()?, offset: f.u32()? },
        frame_len: f.u32()?,
        first_segment: f.u32()?,
        time: f.u32()?,
        incarnation: f.u32()?,
        party: f.u16()?,
        class: Class::from_byte(f.u8()?)?,
    })
}

fn keyed_entry(value: &[u8]) -> Result<(u128, Entry)> {
    let mut f = Fields(value);
    Ok((f.u128()?, decode_entry(&mut f)?))
}

fn pending_key(party: u16, sequence: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&party.to_be_bytes());
    key[2..].copy_from_slice(&sequence.to_be_bytes());
    key
}

fn decode_dead(value: &[u8]) -> Result<DeadEntry> {
    let mut f = Fields(value);
    let key = f.u128()?;
    let entry = decode_entry(&mut f)?;
    let death = Death {
        reason: f.u8()?,
        place: Place { segment: f.u32()?, offset: f.u32()? },
        frame_len: f.u32()?,
        text: f.text()?.into(),
    };
    Ok(DeadEntry { key, entry, death })
}

impl Cold {
    /// Opens the index of a store at `path`; an unreadable one is renamed and a new one made, that of another store is
    /// emptied. True: it was there and opened.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, store_id: u128) -> Result<(Self, bool)> {
        match Self::try_open(disk, path).and_then(|cold| cold.own(store_id)) {
            Ok(opened) => Ok(opened),
            // Not damage: somebody has it open.
            Err(error) if error.is_locked() || error.is_passing() => Err(error),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the index is unreadable; it is set aside and made anew from the log");
                set_aside(disk, path)
                    .map_err(|e| ColdError(format!("cannot set {} aside: {e}", path.display())))?;
                Self::try_open(disk, path)?.own(store_id)
            }
        }
    }

    /// Makes it the index of this store. True: it was before. Entries name frames by their place, and another store has
    /// frames in the same places; their keys mean nothing here.
    fn own(self, store_id: u128) -> Result<(Self, bool)> {
        let id = store_id.to_be_bytes();
        // sled panics on some damage.
        let owned = catch_unwind(AssertUnwindSafe(|| {
            let ours = self.db.get(STORE_KEY)?.is_some_and(|found| *found == id);
            if !ours {
                self.clear()?;
                self.db.insert(STORE_KEY, &id)?;
            }
            Ok(ours)
        }));
        let ours = owned.unwrap_or_else(|_| Err(ColdError("sled panicked while it was read".into())))?;
        Ok((self, ours))
    }

    fn try_open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        // A half-written snapshot of a killed process makes sled's open fail.
        if let Ok(names) = disk.list(path) {
            for name in names.iter().filter(|n| n.ends_with(".generating")) {
                disk.remove(&path.join(name)).map_err(|e| ColdError(e.to_string()))?;
            }
        }
        let patience = Instant::now() + LOCK_PATIENCE;
        let db = loop {
            let config = Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            // sled panics on some damaged files.
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => break db,
                Ok(Err(sled::Error::Io(e)))
                    if e.to_string().contains(LOCKED) && Instant::now() < patience =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => return Err(ColdError("sled panicked while opening".into())),
            }
        };
        let tree = |name: &str| -> Result<Tree> {
            catch_unwind(AssertUnwindSafe(|| db.open_tree(name)))
                .map_err(|_| ColdError("sled panicked while opening a tree".into()))?
                .map_err(ColdError::from)
        };
        let file = disk.open(&path.join("db"), OpenMode::Existing).map_err(|e| ColdError(e.to_string()))?;
        Ok(Self {
            mail: tree("mail")?,
            pending: tree("pending")?,
            latest: tree("latest")?,
            dead: tree("dead")?,
            db,
            file,
        })
    }

    /// Empties it.
    pub(crate) fn clear(&self) -> Result<()> {
        for tree in [&self.mail, &self.pending, &self.latest, &self.dead] {
            tree.clear()?;
        }
        Ok(())
    }

    /// Length of its file in bytes.
    pub(crate) fn file_bytes(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// The older message that `entry` ends by coming after it under its key.
    pub(crate) fn older(&self, key: u128, entry: &Entry) -> Result<Option<Entry>> {
        let known = match entry.class {
            Class::Outgoing => self.latest_pending(key)?,
            Class::Incoming | Class::IncomingUnnamed => self.mail(key)?,
        };
        Ok(known.filter(|known| known.sequence < entry.sequence))
    }

    /// Enters a message in place of the [`older`](Self::older) one, which must have ended by now. That one is taken out
    /// first: after a kill the index may be as it was at any moment, and one that is listed with a newer one to its key
    /// would be taken for pending as soon as that one is settled.
    pub(crate) fn put(&self, key: u128, entry: &Entry, older: Option<&Entry>) -> Result<()> {
        let mut value = Vec::with_capacity(72);
        if entry.class != Class::Outgoing {
            encode_entry(entry, &mut value);
            self.mail.insert(key.to_be_bytes(), value)?;
            return Ok(());
        }
        if let Some(older) = older {
            self.pending.remove(pending_key(older.party, older.sequence))?;
        }
        value.put_u128(key);
        encode_entry(entry, &mut value);
        let at = pending_key(entry.party, entry.sequence);
        self.pending.insert(at, value)?;
        self.latest.insert(key.to_be_bytes(), &at)?;
        Ok(())
    }

    /// The mailbox message under a key.
    pub(crate) fn mail(&self, key: u128) -> Result<Option<Entry>> {
        Ok(self.mail.get(key.to_be_bytes())?.map(|v| decode_entry(&mut Fields(&v))).transpose()?)
    }

    /// The newest pending message under a key.
    pub(crate) fn latest_pending(&self, key: u128) -> Result<Option<Entry>> {
        match self.latest.get(key.to_be_bytes())? {
            Some(at) => Ok(self.pending.get(&at)?.map(|v| keyed_entry(&v)).transpose()?.map(|(_, e)| e)),
            None => Ok(None),
        }
    }

    /// One pending message.
    pub(crate) fn pending(&self, party: u16, sequence: u64) -> Result<Option<(u128, Entry)>> {
        self.pending.get(pending_key(party, sequence))?.map(|v| keyed_entry(&v)).transpose()
    }

    /// Pending messages of a party after a sequence, in order.
    pub(crate) fn pending_after(
        &self,
        party: u16,
        after: u64,
    ) -> impl Iterator<Item = Result<(u128, Entry)>> + use<> {
        let from = pending_key(party, after.saturating_add(1));
        self.pending.range(from..=pending_key(party, u64::MAX)).map(|item| keyed_entry(&item?.1))
    }

    /// Takes a message out. A newer one that another thread enters under its key meanwhile stays. True when it was the
    /// newest pending one.
    pub(crate) fn remove(&self, key: u128, entry: &Entry) -> Result<bool> {
        if entry.class == Class::Outgoing {
            let at = pending_key(entry.party, entry.sequence);
            self.pending.remove(at)?;
            return Ok(self.latest.compare_and_swap(key.to_be_bytes(), Some(&at), None::<&[u8]>)?.is_ok());
        }
        while let Some(value) = self.mail.get(key.to_be_bytes())? {
            let is_it = decode_entry(&mut Fields(&value))?.sequence == entry.sequence;
            if !is_it || self.mail.compare_and_swap(key.to_be_bytes(), Some(value), None::<&[u8]>)?.is_ok() {
                break;
            }
        }
        Ok(false)
    }

    /// Enters a dead letter.
    pub(crate) fn put_dead(&self, letter: &DeadEntry) -> Result<()> {
        let mut value = Vec::with_capacity(128);
        value.put_u128(letter.key);
        encode_entry(&letter.entry, &mut value);
        value.put_u8(letter.death.reason);
        value.put_u32(letter.death.place.segment);
        value.put_u32(letter.death.place.offset);
        value.put_u32(letter.death.frame_len);
        value.put_text(&letter.death.text);
        self.dead.insert(letter.entry.sequence.to_be_bytes(), value)?;
        Ok(())
    }

    /// One dead letter.
    pub(crate) fn dead(&self, sequence: u64) -> Result<Option<DeadEntry>> {
        self.dead.get(sequence.to_be_bytes())?.map(|v| decode_dead(&v)).transpose()
    }

    /// Dead letters after a sequence.
    pub(crate) fn dead_after(&self, after: u64) -> impl Iterator<Item = Result<DeadEntry>> + use<> {
        self.dead.range(after.saturating_add(1).to_be_bytes()..).map(|item| decode_dead(&item?.1))
    }

    /// Dead letters, the newest first.
    pub(crate) fn dead_from_newest(&self) -> impl Iterator<Item = Result<DeadEntry>> + use<> {
        self.dead.iter().rev().map(|item| decode_dead(&item?.1))
    }

    /// Takes a dead letter out.
    pub(crate) fn remove_dead(&self, sequence: u64) -> Result<()> {
        self.dead.remove(sequence.to_be_bytes())?;
        Ok(())
    }

    /// Every mailbox message.
    pub(crate) fn all_mail(&self) -> impl Iterator<Item = Result<(u128, Entry)>> + use<> {
        self.mail.iter().map(|item| {
            let (key, value): (IVec, IVec) = item?;
            let key: [u8; 16] = key.as_ref().try_into().map_err(|_| Short)?;
            Ok((u128::from_be_bytes(key), decode_entry(&mut Fields(&value))?))
        })
    }

    /// Every pending message.
    pub(crate) fn all_pending(&self) -> impl Iterator<Item = Result<(u128, Entry)>> + use<> {
        self.pending.iter().map(|item| keyed_entry(&item?.1))
    }

    /// Key and sequence of every newest pending message, as `latest` has it.
    pub(crate) fn all_latest(&self) -> impl Iterator<Item = Result<(u128, u64)>> + use<> {
        self.latest.iter().map(|item| {
            let (key, value): (IVec, IVec) = item?;
            let key: [u8; 16] = key.as_ref().try_into().map_err(|_| Short)?;
            let at: [u8; 10] = value.as_ref().try_into().map_err(|_| Short)?;
            let sequence = at[2..].try_into().map_err(|_| Short)?;
            Ok((u128::from_be_bytes(key), u64::from_be_bytes(sequence)))
        })
    }

    /// Makes `latest` anew from what is pending. Takes out, and gives, the messages that newer ones have replaced.
    pub(crate) fn renew_latest(&self) -> Result<Vec<Entry>> {
        self.latest.clear()?;
        let mut replaced = Vec::new();
        // One key has one party, so its messages come in the order of their sequences.
        for item in self.all_pending() {
            let (key, entry) = item?;
            replaced.extend(self.older(key, &entry)?);
            self.latest.insert(key.to_be_bytes(), &pending_key(entry.party, entry.sequence))?;
        }
        for old in &replaced {
            self.pending.remove(pending_key(old.party, old.sequence))?;
        }
        Ok(replaced)
    }

    /// Makes it durable, as far as sled lets us.
    pub(crate) fn sync(&self) -> Result<()> {
        self.db.flush()?;
        self.file.sync_data().map_err(|e| ColdError(e.to_string()))
    }
}

/// Renames an unreadable index; the copy before that goes.
pub(crate) fn set_aside(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let aside = path.with_extension("bad");
    disk.remove_tree(&aside)?;
    disk.rename(path, &aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn entry(sequence: u64, class: Class) -> Entry {
        Entry {
            sequence,
            len: 5,
            number: sequence,
            place: Place { segment: 1, offset: 4096 },
            frame_len: 80,
            first_segment: 0,
            time: 3,
            incarnation: 0,
            party: 2,
            class,
        }
    }

    #[test]
    fn entries_are_found_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cold, existed) = Cold::open(&RealDisk, &dir.path().join("index"), 1).expect("opens");
        assert!(!existed);
        let (old, new) = (entry(1, Class::Incoming), entry(2, Class::Incoming));
        assert_eq!(cold.older(7, &old).expect("reads"), None);
        cold.put(7, &old, None).expect("puts");
        assert_eq!(cold.older(7, &new).expect("reads"), Some(old));
        cold.put(7, &new, Some(&old)).expect("puts");
        cold.remove(7, &old).expect("removes what is not there");
        assert_eq!(cold.mail(7).expect("reads"), Some(entry(2, Class::Incoming)));
        for sequence in [3, 4, 300] {
            cold.put(u128::from(sequence), &entry(sequence, Class::Outgoing), None).expect("puts");
        }
        let found: Vec<_> = cold.pending_after(2, 3).map(|r| r.expect("reads").1.sequence).collect();
        assert_eq!(found, [4, 300]);
        cold.remove(4, &entry(4, Class::Outgoing)).expect("removes");
        assert_eq!(cold.latest_pending(4).expect("reads"), None);
        let (old, new) = (entry(300, Class::Outgoing), entry(301, Class::Outgoing));
        cold.put(300, &new, Some(&old)).expect("puts");
        assert_eq!(cold.pending(2, 300).expect("reads"), None, "replaced");
        cold.remove(300, &old).expect("removes what is not there");
        assert_eq!(cold.latest_pending(300).expect("reads"), Some(new));
        cold.sync().expect("syncs");
    }

    #[test]
    fn the_index_of_another_store_is_emptied() {
        let dir = tempfile::tempdir().expect("a folder");
        for (id, was_there) in [(1, false), (1, true), (2, false), (2, true)] {
            let (cold, existed) = Cold::open(&RealDisk, &dir.path().join("index"), id).expect("opens");
            assert_eq!((existed, cold.all_mail().count()), (was_there, usize::from(was_there)));
            cold.put(7, &entry(1, Class::Incoming), None).expect("puts");
        }
    }

    #[test]
    fn an_unreadable_index_is_set_aside_or_opens_empty() {
        let dir = tempfile::tempdir().expect("a folder");
        for (file, content) in [("conf", 20), ("db", 100_000)] {
            let path = dir.path().join(file);
            let (cold, _) = Cold::open(&RealDisk, &path, 1).expect("opens");
            cold.put(7, &entry(1, Class::Incoming), None).expect("puts");
            cold.sync().expect("syncs");
            drop(cold);
            std::fs::write(path.join(file), vec![0xa5; content]).expect("writes");
            let (cold, _) = Cold::open(&RealDisk, &path, 1).expect("opens");
            assert_eq!(cold.all_mail().count(), 0, "damaged {file}");
        }
    }
}
