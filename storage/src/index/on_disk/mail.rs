//! The mailbox part of the index on disk, with the list of its messages by age.
//!
//! Expired messages are found in time proportional to their number, however many are at rest: `ages` has a key for each message,
//! unread ones by their arrival, read ones by their first read. The key is kind (1 byte), time (4) and sequence (8), big-endian;
//! its value is the key of the message. The list is a hint: an item counts only if the message is there and as old as the item
//! says. A list that lacks items (sled may lose entries; earlier versions kept none) is completed by the housekeeping after a
//! start.

use sled::IVec;

use crate::index::entry::Entry;
use crate::index::memory::reads::ReadNote;
use crate::index::on_disk::bytes::{decode_mail, decode_mail_with_id, encode_mail};
use crate::index::on_disk::{Cold, Result};
use crate::log::codec::Short;

/// A key of the list.
pub(crate) type AgeKey = [u8; 13];

/// The key of an entry in the list.
pub(crate) fn age(entry: &Entry) -> AgeKey {
    let (kind, time) = entry.read_at().map_or((0, entry.time), |read| (1, read));
    at(kind, time, entry.sequence)
}

fn at(kind: u8, time: u32, sequence: u64) -> AgeKey {
    let mut age = [kind; 13];
    age[1..5].copy_from_slice(&time.to_be_bytes());
    age[5..].copy_from_slice(&sequence.to_be_bytes());
    age
}

fn key_of(bytes: &IVec) -> Result<u128> {
    let key: [u8; 16] = bytes.as_ref().try_into().map_err(|_| Short)?;
    Ok(u128::from_be_bytes(key))
}

impl Cold {
    /// Enters a mailbox message, replacing the one with the same key.
    pub(crate) fn put_mail(&self, key: u128, entry: &Entry, id: Option<&str>) -> Result<()> {
        let replaced = self.mail.replace(key.to_be_bytes(), encode_mail(entry, id))?;
        if let Some(replaced) = replaced {
            let (replaced, id) = decode_mail_with_id(&replaced)?;
            self.ages.remove(age(&replaced))?;
            self.unlist(&replaced)?;
            self.remove_name(&replaced, id)?;
        }
        self.ages.insert(age(entry), &key.to_be_bytes())?;
        self.put_name(key, entry, id)?;
        self.list(key, entry, id)
    }

    /// Removes a mailbox message. A newer one that another thread enters under its key in the meantime stays. Returns true if it
    /// was listed among the arrivals.
    pub(crate) fn remove_mail(&self, key: u128, entry: &Entry) -> Result<bool> {
        while let Some(value) = self.mail.get(key.to_be_bytes())? {
            let (held, id) = decode_mail_with_id(&value)?;
            if held.sequence != entry.sequence {
                break;
            }
            if self.mail.remove_if(key.to_be_bytes(), &value)? {
                self.ages.remove(age(&held))?;
                self.remove_name(&held, id)?;
                break;
            }
        }
        self.unlist(entry)
    }

    /// Marks a mailbox message as read. `None` if it is not there or was read before.
    pub(crate) fn mark_read(&self, note: &ReadNote) -> Result<Option<Entry>> {
        while let Some(value) = self.mail.get(note.key.to_be_bytes())? {
            let (held, id) = decode_mail_with_id(&value)?;
            if held.sequence != note.sequence || !held.is_unread() {
                break;
            }
            let marked = Entry { first_read: note.time.saturating_add(1), ..held };
            let new = encode_mail(&marked, id);
            if self.mail.replace_if(note.key.to_be_bytes(), &value, new)? {
                self.ages.remove(age(&held))?;
                self.ages.insert(age(&marked), &note.key.to_be_bytes())?;
                return Ok(Some(marked));
            }
        }
        Ok(None)
    }

    /// Items of the list after `after`: of read messages or of unread ones, whose time is at most `until`; oldest first.
    pub(crate) fn aged(
        &self,
        read: bool,
        after: Option<AgeKey>,
        until: u32,
    ) -> impl Iterator<Item = Result<(AgeKey, u128)>> + use<> {
        use std::ops::Bound::{Excluded, Included};
        let from = after.map_or(Included(at(read.into(), 0, 0)), Excluded);
        self.ages.range((from, Included(at(read.into(), until, u64::MAX)))).map(|item| {
            let (age, key) = item?;
            Ok((age.as_ref().try_into().map_err(|_| Short)?, key_of(&key)?))
        })
    }

    /// Removes an item from the list whose message is not there or has another age.
    pub(crate) fn forget_age(&self, age: &AgeKey) -> Result<()> {
        self.ages.remove(age)?;
        Ok(())
    }

    /// Makes sure that the list has what is in the mailbox from a key on; looks at `most` messages. Returns where to continue;
    /// `None` after the last one.
    pub(crate) fn complete_ages(&self, from: u128, most: usize) -> Result<Option<u128>> {
        let mut next = None;
        for (n, item) in self.mail.range(from.to_be_bytes()..).enumerate() {
            let (key, value) = item?;
            let key = key_of(&key)?;
            if n == most {
                next = Some(key);
                break;
            }
            let age = age(&decode_mail(&value)?);
            if self.ages.get(age)?.is_none() {
                self.ages.insert(age, &key.to_be_bytes())?;
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::direction::Class;
    use crate::index::on_disk::encode_entry;
    use crate::log::disk::RealDisk;
    use crate::log::frame::Place;

    fn entry(sequence: u64, time: u32) -> Entry {
        Entry {
            sequence,
            place: Place { segment: 1, offset: 4096 },
            frame_len: 80,
            ..Entry::new(Class::Incoming, 2, 5, time)
        }
    }

    fn listed(cold: &Cold, read: bool, until: u32) -> Vec<u128> {
        cold.aged(read, None, until).map(|item| item.expect("reads").1).collect()
    }

    #[test]
    fn the_list_follows_what_is_put_read_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cold, _) = Cold::open(&RealDisk, &dir.path().join("index"), 1).expect("opens");
        for (key, time) in [(7, 10), (8, 20), (9, 300)] {
            cold.put(key, &entry(key as u64, time), None, None).expect("puts");
        }
        assert_eq!((listed(&cold, false, 20), listed(&cold, true, 1000)), (vec![7, 8], vec![]));
        let note = ReadNote { key: 7, sequence: 7, time: 500 };
        let marked = cold.mark_read(&note).expect("marks").expect("was unread");
        assert_eq!(cold.mail(7).expect("reads"), Some(marked));
        assert_eq!(marked.read_at(), Some(500));
        assert_eq!(
            cold.mark_read(&ReadNote { time: 900, ..note }).expect("marks"),
            None,
            "the first read counts"
        );
        assert_eq!((listed(&cold, false, 1000), listed(&cold, true, 499)), (vec![8, 9], vec![]));
        assert_eq!(listed(&cold, true, 500), [7]);
        cold.put(8, &entry(80, 600), Some(&entry(8, 20)), None).expect("replaces");
        assert_eq!(listed(&cold, false, 1000), [9, 8]);
        cold.remove(7, &entry(7, 10)).expect("removes");
        cold.remove(8, &entry(8, 20)).expect("removes what is not there");
        assert_eq!((listed(&cold, false, 1000), listed(&cold, true, 1000)), (vec![9, 8], vec![]));
    }

    #[test]
    fn the_index_of_an_earlier_version_gets_its_list() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cold, _) = Cold::open(&RealDisk, &dir.path().join("index"), 1).expect("opens");
        for n in 0..100 {
            let mut value = Vec::new();
            encode_entry(&entry(n, n as u32), &mut value);
            cold.mail.insert(u128::from(n).to_be_bytes(), value).expect("inserts");
        }
        assert_eq!(cold.mail(7).expect("reads"), Some(entry(7, 7)), "unread");
        let mut from = Some(0);
        while let Some(at) = from {
            from = cold.complete_ages(at, 7).expect("completes");
        }
        assert_eq!(listed(&cold, false, 1000), (0..100).collect::<Vec<_>>());
    }
}
