//! Messages by the beginning of their ids: the tree `names` (see [`names`](crate::index::memory::names)), kept beside `mail` and
//! `pending`, and the ids in the entries of those trees, so that a message's name can be removed with it.
//!
//! It is trusted as little as the rest: a name counts only if its message is there. A list that lacks names (sled may lose
//! entries; earlier versions kept none) is completed by the housekeeping after a start and is not used until then. Entries of
//! earlier versions have no id: the housekeeping reads those ids from the log, once.

use std::sync::atomic::Ordering;

use sled::IVec;

use super::{Cold, DiskListItem, Result, decode_dead, keys_after, pending_key};
use crate::index::entry::{DeadEntry, Entry};
use crate::index::memory::names::{
    DEAD, NameParts, NameSearch, PENDING, SearchStep, dead_name, is_in_its_bucket, name, parts,
};
use crate::index::on_disk::bytes::{decode_mail, decode_mail_with_id, encode_mail};
use crate::log::codec::{Fields, PutFields, Short};

/// How far the list has been checked since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamesCompletion {
    part: CompletionStage,
    at: Vec<u8>,
}

/// The id cannot be read now: the disk has passing trouble, or others have waited long enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdUnreadableNow;

/// What is being checked: first what must be listed, then the list itself.
#[derive(Debug, Clone, Copy, Default)]
enum CompletionStage {
    #[default]
    Mail,
    Pending,
    Dead,
    Names,
}

/// Key, entry and id.
pub(crate) type EntryWithId = (u128, Entry, Option<Box<str>>);

/// Encodes a pending message's value. Earlier versions wrote no id.
pub(super) fn encode_pending(key: u128, entry: &Entry, id: Option<&str>) -> Vec<u8> {
    let mut value = Vec::with_capacity(72 + id.map_or(0, |id| 2 + id.len()));
    value.put_u128(key);
    super::encode_entry(entry, &mut value);
    if let Some(id) = id {
        value.put_text(id);
    }
    value
}

fn decode_pending(value: &[u8]) -> Result<EntryWithId> {
    let mut f = Fields(value);
    let (key, entry) = (f.u128()?, super::decode_entry(&mut f)?);
    Ok((key, entry, f.text().ok().map(Into::into)))
}

impl Cold {
    /// Lists the name of a message.
    pub(crate) fn put_name(&self, key: u128, entry: &Entry, id: Option<&str>) -> Result<()> {
        match id {
            Some(id) => self.names.insert(name(entry, id), &key.to_be_bytes()),
            None => Ok(()),
        }
    }

    /// Removes the name of a message from the list.
    pub(crate) fn remove_name(&self, entry: &Entry, id: Option<&str>) -> Result<()> {
        id.map_or(Ok(()), |id| self.names.remove(name(entry, id)))
    }

    /// Removes a pending message, with its name, from the list by party.
    pub(super) fn remove_pending(&self, entry: &Entry) -> Result<()> {
        let Some(value) = self.pending.take(pending_key(entry.party, entry.sequence))? else { return Ok(()) };
        let (_, held, id) = decode_pending(&value)?;
        self.remove_name(&held, id.as_deref())
    }

    /// The mailbox message under a key, with its id if the entry has one.
    pub(crate) fn mail_with_id(&self, key: u128) -> Result<Option<(Entry, Option<Box<str>>)>> {
        let Some(value) = self.mail.get(key.to_be_bytes())? else { return Ok(None) };
        let (entry, id) = decode_mail_with_id(&value)?;
        Ok(Some((entry, id.map(Into::into))))
    }

    /// A pending message, with its id if the entry has one.
    pub(crate) fn pending_with_id(&self, party: u16, sequence: u64) -> Result<Option<EntryWithId>> {
        self.pending.get(pending_key(party, sequence))?.map(|value| decode_pending(&value)).transpose()
    }

    /// Pending messages of a party after a sequence, in order, each with its sequence.
    pub(crate) fn listed_pending(
        &self,
        party: u16,
        after: u64,
    ) -> impl Iterator<Item = Result<(u64, DiskListItem)>> + use<> {
        self.pending.range(keys_after(party, after)).map(move |item| {
            let (key, entry, id) = decode_pending(&item?.1)?;
            Ok((entry.sequence, (key, party, id)))
        })
    }

    /// Dead letters of a party after a sequence: one bucket of them, and the sequence after which there may be more.
    pub(crate) fn dead_of(
        &self,
        party: u16,
        after: u64,
        most: usize,
    ) -> Result<(Vec<DeadEntry>, Option<u64>)> {
        let mut search = NameSearch::dead(party, after);
        self.search(&mut search)?;
        let (found, next) = search.end(most);
        let mut letters = Vec::with_capacity(found.len());
        for (sequence, _, _) in found {
            letters.extend(self.dead(sequence)?.filter(|letter| letter.entry.party == party));
        }
        Ok((letters, next))
    }

    /// Runs a search from beginning to end.
    pub(crate) fn search(&self, search: &mut NameSearch<'_>) -> Result<()> {
        let mut at = Some(search.start());
        while let Some(from) = at.take() {
            for item in self.names.range(from..) {
                let (name, key) = item?;
                match search.see(&name, number(&key)?) {
                    SearchStep::Next => {}
                    SearchStep::Jump(to) => {
                        at = Some(to);
                        break;
                    }
                    SearchStep::End => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Whether every message that has an id, and every dead letter, is known to be listed. If not, a caller that looks for them
    /// goes through the other lists.
    pub(crate) fn knows_names(&self) -> bool {
        self.names_known.load(Ordering::Acquire)
    }

    pub(super) fn names_are_known(&self) {
        self.names_known.store(true, Ordering::Release);
    }

    /// Makes sure that the list has what is there and nothing else; looks at `most` items at most, and `read` may break it off.
    /// Called from the one thread that enters messages. Returns where to continue; `None` after the last one.
    pub(crate) fn complete_names(
        &self,
        from: NamesCompletion,
        most: usize,
        read: impl Fn(u128, &Entry) -> std::result::Result<Option<Box<str>>, IdUnreadableNow>,
    ) -> Result<Option<NamesCompletion>> {
        let NamesCompletion { part, at } = from;
        let tree = match part {
            CompletionStage::Mail => &self.mail,
            CompletionStage::Pending => &self.pending,
            CompletionStage::Dead => &self.dead,
            CompletionStage::Names => &self.names,
        };
        for (n, item) in tree.range(at..).enumerate() {
            let (at, value) = item?;
            if n == most {
                return Ok(Some(NamesCompletion { part, at: at.to_vec() }));
            }
            let done = match part {
                CompletionStage::Mail => self.complete_mail(number(&at)?, &value, &read)?,
                CompletionStage::Pending => self.complete_pending(&at, &value, &read)?,
                CompletionStage::Dead => {
                    let letter = decode_dead(&value)?;
                    self.complete_name(&letter.in_names(), letter.key)?;
                    Ok(())
                }
                CompletionStage::Names => {
                    if !self.is_meant(&at, number(&value)?)? {
                        self.names.remove(&at)?;
                    }
                    Ok(())
                }
            };
            if done.is_err() {
                return Ok(Some(NamesCompletion { part, at: at.to_vec() }));
            }
        }
        let part = match part {
            CompletionStage::Mail => CompletionStage::Pending,
            CompletionStage::Pending => CompletionStage::Dead,
            CompletionStage::Dead => {
                self.names_are_known();
                CompletionStage::Names
            }
            CompletionStage::Names => return Ok(None),
        };
        Ok(Some(NamesCompletion { part, at: Vec::new() }))
    }

    fn complete_name(&self, name: &[u8], key: u128) -> Result<()> {
        match self.names.get(name)? {
            Some(_) => Ok(()),
            None => self.names.insert(name, &key.to_be_bytes()),
        }
    }

    fn complete_mail(
        &self,
        key: u128,
        value: &[u8],
        read: impl Fn(u128, &Entry) -> std::result::Result<Option<Box<str>>, IdUnreadableNow>,
    ) -> Result<std::result::Result<(), IdUnreadableNow>> {
        let (entry, id) = decode_mail_with_id(value)?;
        if let Some(id) = id {
            return self.complete_name(&name(&entry, id), key).map(Ok);
        }
        let id = match read(key, &entry) {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(Ok(())),
            Err(later) => return Ok(Err(later)),
        };
        let mut value = IVec::from(value);
        // Another thread may mark it as read in the meantime, or remove it.
        loop {
            let (entry, _) = decode_mail_with_id(&value)?;
            if self.mail.replace_if(key.to_be_bytes(), &value, encode_mail(&entry, Some(&id)))? {
                return self.complete_name(&name(&entry, &id), key).map(Ok);
            }
            match self.mail.get(key.to_be_bytes())? {
                Some(now) if decode_mail(&now)?.sequence == entry.sequence => value = now,
                _ => return Ok(Ok(())),
            }
        }
    }

    fn complete_pending(
        &self,
        at: &[u8],
        value: &[u8],
        read: impl Fn(u128, &Entry) -> std::result::Result<Option<Box<str>>, IdUnreadableNow>,
    ) -> Result<std::result::Result<(), IdUnreadableNow>> {
        let (key, entry, id) = decode_pending(value)?;
        if let Some(id) = id {
            return self.complete_name(&name(&entry, &id), key).map(Ok);
        }
        let id = match read(key, &entry) {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(Ok(())),
            Err(later) => return Ok(Err(later)),
        };
        if self.pending.replace_if(at, value, encode_pending(key, &entry, Some(&id)))? {
            self.complete_name(&name(&entry, &id), key)?;
        }
        Ok(Ok(()))
    }

    /// Whether the message that a name leads to is there.
    fn is_meant(&self, name: &[u8], key: u128) -> Result<bool> {
        let Some(name) = parts(name).filter(is_in_its_bucket) else { return Ok(false) };
        let NameParts { kind, party, sequence, .. } = name;
        Ok(match kind {
            DEAD => self.dead(sequence)?.is_some(),
            PENDING => self.pending(party, sequence)?.is_some(),
            _ => self.mail(key)?.is_some_and(|entry| entry.sequence == sequence),
        })
    }

    /// Lists a dead letter under its party.
    pub(super) fn name_dead(&self, letter: &DeadEntry) -> Result<()> {
        self.names.insert(letter.in_names(), &letter.key.to_be_bytes())
    }
}

impl DeadEntry {
    fn in_names(&self) -> Vec<u8> {
        dead_name(self.entry.party, self.entry.sequence)
    }
}

fn number(bytes: &IVec) -> Result<u128> {
    let bytes: [u8; 16] = bytes.as_ref().try_into().map_err(|_| Short)?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::direction::Class;
    use crate::index::entry::Death;
    use crate::log::disk::RealDisk;
    use crate::log::frame::Place;

    fn entry(sequence: u64, class: Class) -> Entry {
        Entry {
            sequence,
            number: sequence,
            place: Place { segment: 1, offset: 4096 },
            frame_len: 80,
            ..Entry::new(class, 2, 5, 0)
        }
    }

    fn names(cold: &Cold) -> Vec<Vec<u8>> {
        cold.names.iter().map(|item| item.expect("reads").0.to_vec()).collect()
    }

    /// Checks all of it, three items at a time.
    fn complete(cold: &Cold) {
        let mut from = Some(NamesCompletion::default());
        while let Some(at) = from {
            // In each round every read but the first is put off, and done in the next one.
            let reads = std::cell::Cell::new(0);
            let read = |key: u128, _: &Entry| {
                reads.set(reads.get() + 1);
                if reads.get() > 1 { Err(IdUnreadableNow) } else { Ok(Some(format!("{key}").into())) }
            };
            from = cold.complete_names(at, 3, read).expect("completes");
        }
        assert!(cold.knows_names());
    }

    #[test]
    fn the_list_follows_what_comes_and_goes_and_is_completed_and_cleaned() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cold, _) = Cold::open(&RealDisk, &dir.path().join("index"), 1).expect("opens");
        assert!(cold.knows_names(), "there is nothing in it");
        let (mut mail, mut pending, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for n in 1..=10_u64 {
            let text = format!("{n}");
            // Every third one is from an earlier version.
            let id = Some(text.as_str()).filter(|_| n % 3 != 0);
            mail.push(entry(n, Class::Incoming));
            pending.push(entry(100 + n, Class::Outgoing));
            cold.put(n.into(), &mail[mail.len() - 1], None, id).expect("puts");
            cold.put(n.into(), &pending[pending.len() - 1], None, id).expect("puts");
            let death = Death {
                reason: 0,
                text: "".into(),
                place: Place { segment: 1, offset: 8192 },
                frame_len: 80,
                time: None,
            };
            dead.push(DeadEntry { key: n.into(), entry: entry(200 + n, Class::Outgoing), death });
            cold.put_dead(&dead[dead.len() - 1]).expect("puts");
        }
        assert_eq!(names(&cold).len(), 7 + 7 + 10);
        complete(&cold);
        let whole = names(&cold);
        assert_eq!(whole.len(), 30);
        // Lost names are listed again, and stale ones are removed.
        for lost in whole.iter().step_by(4) {
            cold.names.remove(lost).expect("removes");
        }
        for (class, sequence) in [(Class::Incoming, 77), (Class::Outgoing, 88)] {
            cold.put_name(7, &entry(sequence, class), Some("stale")).expect("puts");
        }
        cold.names.insert(dead_name(9, 99), &[0; 16]).expect("puts");
        cold.names.insert("no name", &[0; 16]).expect("puts");
        complete(&cold);
        assert_eq!(names(&cold), whole);
        // These were replaced and read.
        cold.put(1, &entry(50, Class::Incoming), Some(&mail[0]), Some("1")).expect("puts");
        let note = crate::index::memory::reads::ReadNote { key: 2, sequence: 2, time: 5 };
        assert!(cold.mark_read(&note).expect("marks").is_some());
        let id = cold.mail_with_id(2).expect("reads").and_then(|(_, id)| id);
        assert_eq!(id.as_deref(), Some("2"), "it keeps its id");
        assert_eq!(names(&cold).len(), 30);
        mail[0] = entry(50, Class::Incoming);
        for (n, entry) in (1..).zip(&mail).chain((1..).zip(&pending)) {
            cold.remove(n, entry).expect("removes");
        }
        assert_eq!(names(&cold).len(), 10);
        for letter in &dead {
            cold.remove_dead(letter.entry.sequence).expect("removes");
        }
        assert_eq!(names(&cold), [[0; 0]; 0]);
    }
}
