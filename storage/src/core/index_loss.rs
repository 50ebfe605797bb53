//! Gives up the index on disk while the store serves: there is no room to write it, and the store goes on without it.
//!
//! What it held is read back from the log into memory, and its files are removed, so that the log gets their room. It is
//! rebuilt when there is room again (`index_care.rs`). Invariants: until everything is in memory, no caller is told that
//! there is no index; an entry is always in memory or in an index that can be asked.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::shared::Shared;
use crate::face::direction::Class;
use crate::face::error::{Result, StoreError, io_error};
use crate::face::message::PartyId;
use crate::index::entry::{DeadEntry, Death, Entry, RecentEntry};
use crate::index::key;
use crate::index::memory::State;
use crate::index::memory::reads::ReadNote;
use crate::index::on_disk::{Cold, ColdError};
use crate::log::codec::Short;
use crate::log::frame::{DeadFields, HEADER_BYTES, Header, Kind, MessageFields, Place};
use crate::log::scan::{ScanFinding, scan};
use crate::log::segment::{Lane, PAGE};

/// Everything in the log that may have been in the index.
#[derive(Debug, Default)]
struct LostIndexContents {
    /// Messages, with their ids.
    messages: Vec<(u128, Entry, Box<str>)>,
    letters: Vec<DeadEntry>,
    /// Messages that were read, according to the log and the index.
    reads: Vec<ReadNote>,
}

impl Shared {
    /// Asks the index on disk. `None` if there is none, or none any more: a caller that looked in memory before must look
    /// there again.
    pub(crate) fn ask_cold<T>(
        &self,
        ask: impl FnOnce(&Cold) -> std::result::Result<T, ColdError>,
    ) -> Result<Option<T>> {
        let Some(cold) = self.cold() else { return Ok(None) };
        match ask(&cold) {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.index_failed(&cold, &error).map(|()| None),
        }
    }

    /// Takes something out of the index on disk. While the disk is full it stays there: sled grows by removals too, and dead
    /// sets hide it.
    pub(crate) fn remove_from_cold(
        &self,
        remove: impl FnOnce(&Cold) -> std::result::Result<(), ColdError>,
    ) -> Result<()> {
        let Some(cold) = self.cold_for_removal() else { return Ok(()) };
        remove(&cold).or_else(|error| self.index_failed(&cold, &error))
    }

    /// Handles an error of the index on disk. If it lacks room, the index is given up, and everything is in memory
    /// afterwards; after any other error the store is poisoned, and a restart rebuilds the index from the log.
    pub(crate) fn index_failed(&self, cold: &Arc<Cold>, error: &ColdError) -> Result<()> {
        if !error.is_passing() && !cold.is_lost() {
            self.poison(&format!("{error}; the next start rebuilds the index from the log"));
            return Err(StoreError::Poisoned(error.to_string().into()));
        }
        // Held to the end: anyone who wants the index waits until everything is in memory.
        let mut index = self.index.lock();
        if !index.as_ref().is_some_and(|now| Arc::ptr_eq(now, cold)) {
            return Ok(());
        }
        cold.lose();
        let losses = self.index_losses.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            %error,
            losses,
            "the index on disk cannot be written: it is given up, and everything is indexed in memory until there is room"
        );
        if let Err(why) = self.take_back(cold) {
            let why = format!("{error}, and what it held cannot be read from the log: {why}");
            self.poison(&why);
            return Err(StoreError::Poisoned(why.into()));
        }
        *index = None;
        drop(index);
        if let Some(path) = self.options.disk.index_dir(&self.options.data_dir)
            && let Err(error) = self.options.disk.remove_tree(&path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the index that was given up");
        }
        Ok(())
    }

    /// Reads what the index on disk held back from the log, into memory.
    fn take_back(&self, cold: &Cold) -> Result<()> {
        let segments: Vec<(u32, Lane)> = {
            let state = self.state.lock();
            let held = state.accounts.iter().filter(|(_, account)| account.cold.count > 0);
            held.map(|(id, account)| (*id, account.lane)).collect()
        };
        let mut kept = LostIndexContents::default();
        for (id, lane) in segments {
            self.read_kept(lane, id, &mut kept).map_err(|e| io_error("read", &self.log.path(lane, id), e))?;
        }
        // Takes the read marks from whatever the index still returns: their records may be gone from the log. Losing some
        // only lengthens the lives of messages.
        let marked = cold.all_mail().map_while(std::result::Result::ok).filter_map(|(key, entry)| {
            entry.read_at().map(|time| ReadNote { key, sequence: entry.sequence, time })
        });
        kept.reads.extend(marked);
        // A message that is newer than one in the index ends that one here, so it must be synced.
        if !self.wait_visible_synced() {
            return Err(self.state_error().unwrap_or(StoreError::Closed));
        }
        let mut state = self.state.lock();
        let count = state.enter_kept(kept);
        self.counters.in_memory.store(state.live.len() + state.dead.len(), Ordering::Relaxed);
        let missing: u64 = state.accounts.values().map(|account| u64::from(account.cold.count)).sum();
        if missing > 0 || !state.is_cold_empty() {
            let source = io::Error::other(format!("{missing} messages are not there"));
            return Err(io_error("find in", &self.log.dir, source));
        }
        tracing::info!(messages = count, "what the index on disk held is indexed in memory");
        Ok(())
    }

    fn read_kept(&self, lane: Lane, id: u32, kept: &mut LostIndexContents) -> io::Result<()> {
        let dead = self.state.lock().accounts.get(&id).map(|account| account.dead.clone());
        let Some(dead) = dead else { return Ok(()) };
        let file = self.log.file(lane, id)?;
        let undecodable = |Short| io::Error::other("a frame checks out and does not decode");
        scan(&*file, id, PAGE, |found| {
            let ScanFinding::Frame(place, header, body) = found else { return Ok(()) };
            if dead.contains(place.offset / crate::log::frame::ALIGN as u32) {
                return Ok(());
            }
            let fields = body.get(..header.fields_len.into()).ok_or(Short).map_err(undecodable)?;
            match header.kind {
                Kind::Message | Kind::Commit => {
                    let (key, entry) = self.entry_of(place, &header, fields).map_err(undecodable)?;
                    let id = MessageFields::decode(fields).map_err(undecodable)?.id.into();
                    kept.messages.push((key, entry, id));
                }
                Kind::Dead => {
                    kept.letters.extend(self.letter_of(place, &header, fields).map_err(undecodable)?);
                }
                Kind::Read => kept.reads.extend(ReadNote::decode(fields).map_err(undecodable)?),
                Kind::Part | Kind::Settle | Kind::Named => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    fn entry_of(
        &self,
        place: Place,
        header: &Header,
        fields: &[u8],
    ) -> std::result::Result<(u128, Entry), Short> {
        let f = MessageFields::decode(fields)?;
        let mut state = self.state.lock();
        let party = match f.class {
            Class::IncomingUnnamed => 0,
            Class::Outgoing | Class::Incoming => {
                state.parties.intern(&PartyId::new(f.party).map_err(|_| Short)?)
            }
        };
        let incarnation =
            if f.class == Class::Outgoing { state.incarnation_index(f.incarnation) } else { f.ordinal };
        let key = key::key(self.key_secret, f.class, f.party, f.id);
        Ok((key, Entry::of_frame(place, header, &f, party, incarnation)))
    }

    /// The dead letter of a frame; `None` if its message is not there, which means that the letter ended.
    fn letter_of(
        &self,
        place: Place,
        header: &Header,
        fields: &[u8],
    ) -> std::result::Result<Option<DeadEntry>, Short> {
        let f = DeadFields::decode(fields)?;
        let lane = {
            let state = self.state.lock();
            let Some(account) = state.accounts.get(&f.place.segment) else { return Ok(None) };
            account.lane
        };
        let Ok(message) = self.log.read(lane, f.place, 0) else { return Ok(None) };
        let (_, entry) = self.entry_of(f.place, &message.header, message.fields())?;
        let frame_len = HEADER_BYTES as u32 + header.body_len;
        let time = Some(header.time);
        let death = Death { reason: f.reason, text: f.text.into(), place, frame_len, time };
        Ok(Some(DeadEntry { key: f.key, entry, death }))
    }
}

impl State {
    /// Takes over what the index on disk held. Returns how many entries there were.
    fn enter_kept(&mut self, mut kept: LostIndexContents) -> usize {
        let positions = self.positions();
        let mut recents: [Vec<RecentEntry>; 2] = Default::default();
        let lane_of = |state: &Self, place: Place| {
            let lane = state.accounts.get(&place.segment)?.lane.index();
            // What lies after the position was never moved to the index.
            (place < positions[lane]).then_some(lane)
        };
        for letter in kept.letters {
            let (place, sequence) = (letter.death.place, letter.entry.sequence);
            let Some(lane) = lane_of(self, place) else { continue };
            if !self.is_valid(place) || self.dead.contains_key(&sequence) {
                continue;
            }
            self.cold_dead = self.cold_dead.saturating_sub(1);
            if let Some(account) = self.accounts.get_mut(&place.segment) {
                account.cold.remove(sequence, place);
            }
            let time = letter.entry.time;
            recents[lane].push(RecentEntry { sequence, key: letter.key, place, time, dead_letter: true });
            self.dead.insert(sequence, letter);
        }
        let reads: HashMap<(u128, u64), u32> =
            kept.reads.iter().map(|note| ((note.key, note.sequence), note.time)).collect();
        let mut notes = Vec::new();
        // For each key the newest counts.
        kept.messages.sort_by_key(|(_, entry, _)| std::cmp::Reverse(entry.sequence));
        for (key, mut entry, id) in kept.messages {
            let Some(lane) = lane_of(self, entry.place) else { continue };
            if !self.is_current_cold(&entry) {
                continue;
            }
            if self.live.contains_key(&key) {
                self.remove_cold(&entry);
                continue;
            }
            self.leave_cold(&entry);
            if entry.class == Class::Outgoing {
                self.pending.insert((entry.party, entry.sequence), key);
            }
            if entry.class != Class::Outgoing {
                self.arrivals.insert((entry.party, entry.sequence), key);
                entry = self.with_mark(key, entry);
                if let Some(time) = reads.get(&(key, entry.sequence)).filter(|_| entry.is_unread()) {
                    entry.first_read = time.saturating_add(1);
                }
                notes.extend(
                    entry.read_at().map(|time| (lane, ReadNote { key, sequence: entry.sequence, time })),
                );
            }
            self.names.add(key, &entry, id);
            let Entry { sequence, place, time, .. } = entry;
            recents[lane].push(RecentEntry { sequence, key, place, time, dead_letter: false });
            self.live.insert(key, entry);
        }
        let count = recents.iter().map(Vec::len).sum();
        for (fifo, mut recents) in self.fifo.iter_mut().zip(recents) {
            recents.sort_by_key(|recent| recent.place);
            for recent in recents.into_iter().rev() {
                fifo.push_front(recent);
            }
        }
        self.reads.came_back(notes);
        self.relocations += 1;
        self.hand_overs += 1;
        self.dirty = true;
        count
    }
}
