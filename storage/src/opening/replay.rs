//! Reads the log back into the index in memory.
//!
//! Opening after a clean stop, opening after a crash, and rebuilding the index are this one path: they differ only in the
//! place where reading starts. Invariant: the outcome does not depend on the order in which frames are read, because the
//! highest sequence wins and records that end messages are applied after all messages are in.

use crate::index::checkpoint::Checkpoint;
use std::collections::{HashMap, HashSet};
use std::io;

use crate::core::options::StoreOptions;
use crate::face::direction::Class;
use crate::face::error::OpenError;
use crate::face::message::{DeliveryIdentity, PartyId};
use crate::index::entry::{Death, Entry};
use crate::index::key;
use crate::index::memory::State;
use crate::index::memory::reads::ReadNote;
use crate::index::on_disk::ColdError;
use crate::index::sends::{AnotherSendKey, KnownSend, SendFingerprint};
use crate::log::batch::MAX_UNSYNCED;
use crate::log::codec::Short;
use crate::log::damage::{DamagedPlace, set_aside};
use crate::log::data_folder::open_io;
use crate::log::disk::write_all_at;
use crate::log::files::Log;
use crate::log::frame::{
    DeadFields, HEADER_BYTES, Header, KeyedContent, Kind, MessageFields, Place, SettleFields, Slices,
};
use crate::log::scan::{ScanFinding, SegmentEnd, scan};
use crate::log::segment::{Lane, PAGE};

/// Why reading back failed.
#[derive(Debug)]
pub(crate) enum ReplayFailure {
    /// The store cannot be opened.
    Open(OpenError),
    /// The index on disk gave errors: opening tries again with a fresh one or without.
    Index(ColdError),
}

impl From<OpenError> for ReplayFailure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// A dead-letter record whose message is not looked up yet.
#[derive(Debug)]
pub(crate) struct DeadRecord {
    pub(crate) key: u128,
    pub(crate) message: Place,
    pub(crate) death: Death,
}

/// The slices found while a lane is replayed. A commit frame can survive a power cut that its slices did not survive: they
/// may belong to the same write.
#[derive(Debug)]
pub(crate) struct ReplayedSlices {
    /// Everything before this place was synced.
    from: Place,
    /// Sequence and payload bytes of each slice, by place.
    met: HashMap<Place, (u64, u32)>,
    /// Commit frames with missing slices.
    unfinished: Vec<(Place, Header, Vec<u8>)>,
}

/// Replays the log into a state.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) options: &'a StoreOptions,
    pub(crate) log: &'a Log,
    pub(crate) secret: (u64, u64),
    pub(crate) state: State,
    pub(crate) settled: Vec<(u64, SettleFields)>,
    pub(crate) dead: HashMap<u64, DeadRecord>,
    /// Messages that were handed to readers.
    pub(crate) reads: Vec<ReadNote>,
    /// Messages that were replaced by a newer one. Those that were dead letters by then remain dead letters.
    pub(crate) replaced: HashSet<u64>,
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) newest_time: u32,
    pub(crate) last_incarnation_ms: u64,
    pub(crate) slices: Option<ReplayedSlices>,
}

impl<'a> Replay<'a> {
    /// A replay that has read nothing yet; `state` is what the checkpoint holds.
    pub(crate) fn after(
        options: &'a StoreOptions,
        log: &'a Log,
        secret: (u64, u64),
        state: State,
        checkpoint: &Checkpoint,
    ) -> Self {
        Self {
            options,
            log,
            secret,
            state,
            settled: Vec::new(),
            dead: HashMap::new(),
            reads: Vec::new(),
            replaced: HashSet::new(),
            records: 0,
            torn_bytes: 0,
            damaged: 0,
            newest_time: checkpoint.service_seconds,
            last_incarnation_ms: checkpoint.last_incarnation_ms,
            slices: None,
        }
    }
}

impl Replay<'_> {
    /// Reads one segment from `from` on, up to `until`.
    pub(crate) fn segment(
        &mut self,
        lane: Lane,
        id: u32,
        from: u64,
        until: u64,
    ) -> Result<SegmentEnd, OpenError> {
        let path = self.log.path(lane, id);
        let file = self.log.file(lane, id).map_err(open_io("open", &path))?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut unknown = None;
        let end = scan(&*file, id, from.max(PAGE), |found| {
            match found {
                ScanFinding::Frame(place, header, body) if u64::from(place.offset) < until => {
                    self.frame(place, &header, body).map_err(|Short| {
                        io::Error::other(format!("frame at {} checks out and does not decode", place.offset))
                    })?;
                }
                ScanFinding::Unknown(place, kind) => unknown = unknown.or(Some((place, kind))),
                ScanFinding::Damaged(offset, len) if offset < until => {
                    self.damaged += 1;
                    let what = "bytes that are no frame, with frames behind them";
                    set_aside(
                        &*self.log.disk,
                        &self.options.data_dir,
                        &*file,
                        &DamagedPlace { segment: &name, offset, len, what, torn: false },
                    );
                }
                ScanFinding::Frame(..) | ScanFinding::Damaged(..) => {}
            }
            Ok(())
        })
        .map_err(open_io("read", &path))?;
        if let Some((place, kind)) = unknown {
            let what = format!(
                "holds a frame of unknown kind {kind} at offset {}; run the version that wrote it, or a newer one",
                place.offset
            );
            return Err(OpenError::Format { path, what });
        }
        if end.torn > 0 && end.offset < until {
            let torn = !self.is_followed(lane, id);
            let what = if torn {
                self.torn_bytes += end.torn;
                "an unfinished frame at the end of the log"
            } else {
                self.damaged += 1;
                "bytes that are no frame at the end of a full segment"
            };
            let damage = DamagedPlace { segment: &name, offset: end.offset, len: end.torn, what, torn };
            set_aside(&*self.log.disk, &self.options.data_dir, &*file, &damage);
        }
        Ok(end)
    }

    /// Whether the next segment of the lane has frames: if so, this one is full, and synced to its end.
    fn is_followed(&self, lane: Lane, id: u32) -> bool {
        let after = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
        let next = self.state.accounts.range(after).find(|(_, account)| account.lane == lane);
        let Some((next, _)) = next else { return false };
        let place = Place { segment: *next, offset: PAGE as u32 };
        let mut bytes = [0; HEADER_BYTES];
        let read = self.log.file(lane, *next).and_then(|file| file.read_at(&mut bytes, PAGE));
        read.is_ok() && Header::decode(&bytes, place).is_ok()
    }

    fn frame(&mut self, place: Place, header: &Header, body: &[u8]) -> Result<(), Short> {
        self.records += 1;
        self.newest_time = self.newest_time.max(header.time);
        self.state.last_sequence = self.state.last_sequence.max(header.sequence);
        let fields = body.get(..header.fields_len.into()).ok_or(Short)?;
        match header.kind {
            Kind::Part => {
                if let Some(slices) = &mut self.slices {
                    slices.met.insert(place, (header.sequence, header.body_len));
                }
            }
            Kind::Commit if !self.is_whole(header, body)? => {
                if let Some(slices) = &mut self.slices {
                    slices.unfinished.push((place, *header, body.to_vec()));
                }
            }
            Kind::Message | Kind::Commit => {
                let (key, entry) = self.message(place, header, fields)?;
                if self.state.is_valid(place) {
                    let other = self.state.live.get(&key).map_or(entry.sequence, |e| e.sequence);
                    if other != entry.sequence {
                        self.replaced.insert(other.min(entry.sequence));
                    }
                    let id = MessageFields::decode(fields)?.id;
                    self.state.insert(key, entry, id, header.time);
                }
            }
            Kind::Settle => self.settled.push((header.sequence, SettleFields::decode(fields)?)),
            Kind::Read => self.reads.extend(ReadNote::decode(fields)?),
            Kind::Named => self.state.sends.name(&AnotherSendKey::decode(header.sequence, fields)?),
            Kind::Dead => {
                let f = DeadFields::decode(fields)?;
                if self.state.is_valid(place) {
                    let death = Death {
                        reason: f.reason,
                        text: f.text.into(),
                        place,
                        frame_len: HEADER_BYTES as u32 + header.body_len,
                        time: Some(header.time),
                    };
                    let record = DeadRecord { key: f.key, message: f.place, death };
                    self.dead.insert(header.sequence, record);
                }
            }
        }
        Ok(())
    }

    /// From here on, the lane's commit frames are checked against the slices that are found.
    pub(crate) fn watch_slices(&mut self, from: Place) {
        self.slices = Some(ReplayedSlices { from, met: HashMap::new(), unfinished: Vec::new() });
    }

    fn is_whole(&self, commit: &Header, body: &[u8]) -> Result<bool, Short> {
        let Some(slices) = &self.slices else { return Ok(true) };
        let list = Slices::decode(body.get(commit.fields_len.into()..).ok_or(Short)?)?;
        let sequence = list.sequence(commit.sequence);
        let met = |place| slices.met.get(place);
        Ok(list.extents.iter().all(|e| e.place < slices.from || met(&e.place) == Some(&(sequence, e.len))))
    }

    /// Decides about commit frames with missing slices, once the lane's end is known. Within what the last write may have
    /// left, the messages were never accepted and are removed: nothing of them may replace an accepted message or be taken
    /// for one. Elsewhere this is damage, and it is reported to anyone who asks for the message.
    pub(crate) fn finish_slices(&mut self, lane: Lane, end: Option<(u32, u64)>) -> Result<(), OpenError> {
        let unfinished = self.slices.take().map(|s| s.unfinished).unwrap_or_default();
        for (place, header, body) in unfinished {
            let path = self.log.path(lane, place.segment);
            let is_torn = end.is_some_and(|(segment, offset)| {
                segment == place.segment && offset <= u64::from(place.offset) + MAX_UNSYNCED
            });
            if is_torn {
                tracing::warn!(
                    offset = place.offset,
                    "a large message whose slices were not all written; it was never accepted"
                );
                self.torn_bytes += header.frame_len();
                self.demote(lane, place, header).map_err(open_io("clear the end of", &path))?;
            } else {
                let wrong = |Short| io::Error::other(format!("frame at {} does not decode", place.offset));
                self.frame(place, &header, &body).map_err(wrong).map_err(open_io("read", &path))?;
            }
        }
        Ok(())
    }

    /// Turns a commit frame into a slice that nothing refers to, for good. Synced with the end of the log.
    fn demote(&self, lane: Lane, place: Place, header: Header) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        Header { kind: Kind::Part, fields_len: 0, ..header }.encode(place, &mut bytes);
        write_all_at(&*self.log.file(lane, place.segment)?, &bytes, place.offset.into())
    }

    /// The index entry of a message frame; remembers its delivery, party and incarnation.
    pub(crate) fn message(
        &mut self,
        place: Place,
        header: &Header,
        fields: &[u8],
    ) -> Result<(u128, Entry), Short> {
        let f = MessageFields::decode(fields)?;
        let party = match f.class {
            Class::IncomingUnnamed => 0,
            Class::Outgoing | Class::Incoming => {
                self.state.parties.intern(&PartyId::new(f.party).map_err(|_| Short)?)
            }
        };
        let key = key::key(self.secret, f.class, f.party, f.id);
        if let Some(KeyedContent { key: send, content_crc }) = f.keyed {
            let print = SendFingerprint::new(key, f.len, content_crc);
            self.state.sends.remember(send, KnownSend { sequence: header.sequence, print });
        }
        let incarnation = if f.class == Class::Outgoing {
            self.last_incarnation_ms = self.last_incarnation_ms.max(f.incarnation.started_ms);
            self.state.incarnation_index(f.incarnation)
        } else {
            if f.number > 0 {
                let identity =
                    DeliveryIdentity { incarnation: f.incarnation, number: f.number, low_water: f.low_water };
                self.state.delivered.add(party, &identity, f.ordinal);
            }
            f.ordinal
        };
        Ok((key, Entry::of_frame(place, header, &f, party, incarnation)))
    }
}
