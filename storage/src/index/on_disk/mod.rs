//! The index on disk: a sled database of where older messages are. It is a convenience, never the truth.
//!
//! Entries come here after a minute, or when memory has too many, by plain inserts from one thread; the payloads stay in the
//! log. Rules for sled 0.34: its `flush` does not sync, so the file is synced through our own descriptor; no batches, no
//! transactions, no `flush_async`; values stay small; an unreadable index is set aside and rebuilt.
//!
//! Trees: `mail` key -> entry (mailbox); `ages` (read, time, sequence) -> key of each in `mail`; `arrivals` (sender, sequence)
//! -> key and id of each in `mail`; `pending` (party, sequence) -> key, entry; `latest` key -> (party, sequence) of the newest
//! pending one; `names` (kind, bucket, party, id, sequence) -> key of each in `mail`, `pending` and `dead`; `dead` sequence ->
//! key, entry, death. All keys are big-endian, so that they sort.

pub(crate) mod fence;
pub(crate) mod mail;
pub(crate) mod shelf;

pub(crate) mod bytes;
pub(crate) mod error;
mod names;
mod order;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sled::{Config, Db, IVec};

use self::bytes::{decode_dead, keyed_entry, keys_after, pending_key};
use self::error::CLOCK;
use crate::face::direction::Class;
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::names::dead_name;
use crate::index::on_disk::bytes::decode_mail;
use crate::index::on_disk::fence::{Fenced, fenced};
use crate::index::on_disk::shelf::{IndexHealth, Shelf};
use crate::log::codec::{PutFields, Short};
use crate::log::disk::{Disk, DiskFile, OpenMode};

pub(crate) use self::bytes::{decode_entry, encode_entry};
pub(crate) use self::error::{ColdError, Result};
pub(crate) use self::names::{IdUnreadableNow, NamesCompletion};
pub(crate) use self::order::DiskListItem;

const CACHE_BYTES: u64 = 16 << 20;
/// How long to wait for a lock that a dying process may still hold.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Key of the store id, which says which store this index belongs to.
const STORE_KEY: &[u8] = b"store";

/// The open index.
#[derive(Debug)]
pub(crate) struct Cold {
    db: Fenced<Db>,
    health: IndexHealth,
    pub(crate) mail: Shelf,
    /// Mailbox messages by age: see `mail.rs`.
    pub(crate) ages: Shelf,
    /// Mailbox messages in order of arrival: see `order.rs`.
    arrivals: Shelf,
    /// Messages by the beginning of their ids: see `names.rs`.
    names: Shelf,
    /// Whether `names` is known to be complete.
    names_known: AtomicBool,
    pending: Shelf,
    latest: Shelf,
    dead: Shelf,
    /// sled's file, through a descriptor of our own.
    file: Arc<dyn DiskFile>,
    /// Whether the index was given up: what it holds returns to memory, and it takes over nothing more.
    lost: AtomicBool,
}

impl Cold {
    /// Opens the index of a store at `path`. An unreadable one is renamed and a new one created; that of another store is
    /// emptied. Returns true if it was there and has been opened.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, store_id: u128) -> Result<(Self, bool)> {
        match Self::try_open(disk, path).and_then(|cold| cold.own(store_id)) {
            Ok(opened) => Ok(opened),
            // This is not damage: another process has it open, or the trouble is passing.
            Err(error) if error.is_locked() || error.is_passing() => Err(error),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the index is unreadable; it is set aside and rebuilt from the log");
                set_aside(disk, path)
                    .map_err(|e| ColdError(format!("cannot set {} aside: {e}", path.display())))?;
                Self::try_open(disk, path)?.own(store_id)
            }
        }
    }

    /// Makes it the index of this store; returns true if it already was. Entries name frames by their place, and another store
    /// has frames in the same places; its keys mean nothing here.
    fn own(self, store_id: u128) -> Result<(Self, bool)> {
        let id = store_id.to_be_bytes();
        let found = self.health.call(&self.db, |db| db.get(STORE_KEY))?;
        let ours = found.is_some_and(|found| *found == id);
        if !ours {
            self.clear()?;
            self.health.call(&self.db, |db| db.insert(STORE_KEY, &id))?;
        }
        Ok((self, ours))
    }

    fn try_open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        if SystemTime::now() < SystemTime::UNIX_EPOCH {
            return Err(ColdError(format!("{CLOCK}; set it")));
        }
        // A half-written snapshot of a killed process makes sled fail to open.
        if let Ok(names) = disk.list(path) {
            for name in names.iter().filter(|n| n.ends_with(".generating")) {
                disk.remove(&path.join(name)).map_err(|e| ColdError(e.to_string()))?;
            }
        }
        let patience = Instant::now() + LOCK_PATIENCE;
        let db = loop {
            let config = Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            // sled panics on some damaged files.
            match fenced(|| config.open()).map(|opened| opened.map_err(ColdError::from)) {
                Some(Ok(db)) => break Fenced::new(db),
                Some(Err(e)) if e.is_locked() && Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(Err(e)) => return Err(e),
                None => return Err(ColdError("sled panicked while opening".into())),
            }
        };
        // sled creates its files with the umask. Those that it adds later are in a folder that is private by then.
        disk.make_private(path).map_err(|e| ColdError(e.to_string()))?;
        let health = IndexHealth::default();
        let tree = |name: &str| -> Result<Shelf> {
            Ok(Shelf::new(health.call(&db, |db| db.open_tree(name))?, &health))
        };
        let file = disk.open(&path.join("db"), OpenMode::Existing).map_err(|e| ColdError(e.to_string()))?;
        Ok(Self {
            mail: tree("mail")?,
            ages: tree("ages")?,
            pending: tree("pending")?,
            latest: tree("latest")?,
            arrivals: tree("arrivals")?,
            names: tree("names")?,
            names_known: AtomicBool::new(false),
            dead: tree("dead")?,
            db,
            health: health.clone(),
            file,
            lost: AtomicBool::new(false),
        })
    }

    /// Empties the index.
    pub(crate) fn clear(&self) -> Result<()> {
        let trees = [&self.mail, &self.ages, &self.arrivals, &self.names];
        for tree in trees.into_iter().chain([&self.pending, &self.latest, &self.dead]) {
            tree.clear()?;
        }
        self.names_are_known();
        Ok(())
    }

    /// Gives the index up. Returns false if it was given up before.
    pub(crate) fn lose(&self) -> bool {
        !self.lost.swap(true, Ordering::AcqRel)
    }

    /// Whether the index was given up.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Length of the index's file in bytes.
    pub(crate) fn file_bytes(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// The older message that `entry` ends, because it comes later under the same key.
    pub(crate) fn older(&self, key: u128, entry: &Entry) -> Result<Option<Entry>> {
        let known = match entry.class {
            Class::Outgoing => self.latest_pending(key)?,
            Class::Incoming | Class::IncomingUnnamed => self.mail(key)?,
        };
        Ok(known.filter(|known| known.sequence < entry.sequence))
    }

    /// Enters a message in place of the [`older`](Self::older) one, which must have ended by now. That one is removed first:
    /// after a kill the index may be in the state of any moment, and an older message listed beside a newer one with its key
    /// would be taken for pending as soon as the newer one is settled.
    pub(crate) fn put(
        &self,
        key: u128,
        entry: &Entry,
        older: Option<&Entry>,
        id: Option<&str>,
    ) -> Result<()> {
        if entry.class != Class::Outgoing {
            return self.put_mail(key, entry, id);
        }
        if let Some(older) = older {
            self.remove_pending(older)?;
        }
        let at = pending_key(entry.party, entry.sequence);
        self.pending.insert(at, names::encode_pending(key, entry, id))?;
        self.put_name(key, entry, id)?;
        self.latest.insert(key.to_be_bytes(), &at)?;
        Ok(())
    }

    /// The mailbox message under a key.
    pub(crate) fn mail(&self, key: u128) -> Result<Option<Entry>> {
        Ok(self.mail.get(key.to_be_bytes())?.map(|v| decode_mail(&v)).transpose()?)
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
        self.pending.range(keys_after(party, after)).map(|item| keyed_entry(&item?.1))
    }

    /// Removes a message. A newer one that another thread enters under its key in the meantime stays. Returns true if it was
    /// listed as the newest pending one or among the arrivals.
    pub(crate) fn remove(&self, key: u128, entry: &Entry) -> Result<bool> {
        if entry.class == Class::Outgoing {
            self.remove_pending(entry)?;
            return self.latest.remove_if(key.to_be_bytes(), &pending_key(entry.party, entry.sequence));
        }
        self.remove_mail(key, entry)
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
        if let Some(time) = letter.death.time {
            value.put_u32(time);
        }
        self.dead.insert(letter.entry.sequence.to_be_bytes(), value)?;
        self.name_dead(letter)
    }

    /// One dead letter.
    pub(crate) fn dead(&self, sequence: u64) -> Result<Option<DeadEntry>> {
        self.dead.get(sequence.to_be_bytes())?.map(|v| decode_dead(&v)).transpose()
    }

    /// Dead letters after a sequence.
    pub(crate) fn dead_after(&self, after: u64) -> impl Iterator<Item = Result<DeadEntry>> + use<> {
        self.dead.range(after.saturating_add(1).to_be_bytes()..).map(|item| decode_dead(&item?.1))
    }

    /// Dead letters, newest first.
    pub(crate) fn dead_from_newest(&self) -> impl Iterator<Item = Result<DeadEntry>> + use<> {
        self.dead.iter().rev().map(|item| decode_dead(&item?.1))
    }

    /// Removes a dead letter.
    pub(crate) fn remove_dead(&self, sequence: u64) -> Result<()> {
        let Some(value) = self.dead.take(sequence.to_be_bytes())? else { return Ok(()) };
        self.names.remove(dead_name(decode_dead(&value)?.entry.party, sequence))
    }

    /// Every mailbox message.
    pub(crate) fn all_mail(&self) -> impl Iterator<Item = Result<(u128, Entry)>> + use<> {
        self.mail.iter().map(|item| {
            let (key, value): (IVec, IVec) = item?;
            let key: [u8; 16] = key.as_ref().try_into().map_err(|_| Short)?;
            Ok((u128::from_be_bytes(key), decode_mail(&value)?))
        })
    }

    /// Every pending message.
    pub(crate) fn all_pending(&self) -> impl Iterator<Item = Result<(u128, Entry)>> + use<> {
        self.pending.iter().map(|item| keyed_entry(&item?.1))
    }

    /// Key and sequence of every newest pending message, according to `latest`.
    pub(crate) fn all_latest(&self) -> impl Iterator<Item = Result<(u128, u64)>> + use<> {
        self.latest.iter().map(|item| {
            let (key, value): (IVec, IVec) = item?;
            let key: [u8; 16] = key.as_ref().try_into().map_err(|_| Short)?;
            let at: [u8; 10] = value.as_ref().try_into().map_err(|_| Short)?;
            let sequence = at[2..].try_into().map_err(|_| Short)?;
            Ok((u128::from_be_bytes(key), u64::from_be_bytes(sequence)))
        })
    }

    /// Rebuilds `latest` from what is pending. Removes and returns the messages that newer ones have replaced.
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
            self.remove_pending(old)?;
        }
        Ok(replaced)
    }

    /// Makes the index durable, as far as sled allows.
    pub(crate) fn sync(&self) -> Result<()> {
        self.health.call(&self.db, |db| db.flush())?;
        self.file.sync_data().map_err(|e| ColdError(e.to_string()))
    }
}

/// With less room than this on the disk, in bytes, an unreadable index is removed instead of being set aside.
pub(crate) const LOW_BYTES: u64 = 64 << 20;

/// Renames an unreadable index; an earlier copy is removed. If there is little room, the index itself is removed.
pub(crate) fn set_aside(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let aside = path.with_extension("bad");
    disk.remove_tree(&aside)?;
    let room = path.parent().map(|dir| disk.room(dir)).transpose()?;
    if room.is_some_and(|room| room.available < LOW_BYTES) {
        return disk.remove_tree(path);
    }
    disk.rename(path, &aside)
}

/// Removes what was set aside before: the log needs the room more.
pub(crate) fn remove_aside(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove_tree(&path.with_extension("bad")) {
        tracing::warn!(%error, "cannot remove the index that was set aside");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::RealDisk;
    use crate::log::frame::Place;

    fn entry(sequence: u64, class: Class) -> Entry {
        Entry {
            sequence,
            number: sequence,
            place: Place { segment: 1, offset: 4096 },
            frame_len: 80,
            ..Entry::new(class, 2, 5, 3)
        }
    }

    #[test]
    fn entries_are_found_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cold, existed) = Cold::open(&RealDisk, &dir.path().join("index"), 1).expect("opens");
        assert!(!existed);
        let (old, new) = (entry(1, Class::Incoming), entry(2, Class::Incoming));
        assert_eq!(cold.older(7, &old).expect("reads"), None);
        cold.put(7, &old, None, None).expect("puts");
        assert_eq!(cold.older(7, &new).expect("reads"), Some(old));
        cold.put(7, &new, Some(&old), Some("id")).expect("puts");
        cold.remove(7, &old).expect("removes what is not there");
        let listed =
            |cold: &Cold| -> Vec<_> { cold.arrivals_after(2, 0).map(|r| r.expect("reads")).collect() };
        let newer = (2, (7, 2, Some("id".into())));
        assert_eq!(listed(&cold), std::slice::from_ref(&newer), "the newer one alone");
        cold.arrivals.clear().expect("clears");
        cold.rebuild_arrivals().expect("reads");
        assert_eq!(listed(&cold), [newer]);
        assert_eq!(cold.mail(7).expect("reads"), Some(entry(2, Class::Incoming)));
        for sequence in [3, 4, 300] {
            cold.put(u128::from(sequence), &entry(sequence, Class::Outgoing), None, None).expect("puts");
        }
        let found: Vec<_> = cold.pending_after(2, 3).map(|r| r.expect("reads").1.sequence).collect();
        assert_eq!(found, [4, 300]);
        cold.remove(4, &entry(4, Class::Outgoing)).expect("removes");
        assert_eq!(cold.latest_pending(4).expect("reads"), None);
        let (old, new) = (entry(300, Class::Outgoing), entry(301, Class::Outgoing));
        cold.put(300, &new, Some(&old), None).expect("puts");
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
            cold.put(7, &entry(1, Class::Incoming), None, None).expect("puts");
        }
    }

    #[test]
    fn an_unreadable_index_is_set_aside_or_opens_empty() {
        let dir = tempfile::tempdir().expect("a folder");
        for (file, content) in [("conf", 20), ("db", 100_000)] {
            let path = dir.path().join(file);
            let (cold, _) = Cold::open(&RealDisk, &path, 1).expect("opens");
            cold.put(7, &entry(1, Class::Incoming), None, None).expect("puts");
            cold.sync().expect("syncs");
            drop(cold);
            std::fs::write(path.join(file), vec![0xa5; content]).expect("writes");
            let (cold, _) = Cold::open(&RealDisk, &path, 1).expect("opens");
            assert_eq!(cold.all_mail().count(), 0, "damaged {file}");
        }
    }
}
