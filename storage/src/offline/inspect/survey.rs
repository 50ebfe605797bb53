//! Reads every frame of every segment and reports what is there and what is damaged. It decides nothing about messages.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::mend::Mend;
use crate::face::error::OpenError;
use crate::face::message::PartyId;
use crate::index::memory::reads::ReadNote;
use crate::index::sends::AnotherSendKey;
use crate::log::data_folder::open_io;
use crate::log::disk::{DiskFile, OpenMode};
use crate::log::files::Log;
use crate::log::frame::{DeadFields, HEADER_BYTES, Header, Kind, MessageFields, Place, SettleFields, Slices};
use crate::log::inventory::MISNAMED;
use crate::log::scan::{ScanFinding, SegmentEnd, scan};
use crate::log::segment::{FORMAT_VERSION, LANES, Lane, LogFile, NotASegment, PAGE, SegmentHeader};

/// A damaged place of a file in the log folder.
#[derive(Debug, Clone)]
pub(super) struct DamagedRange {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) what: String,
}

/// One segment, read from its first byte to its last.
#[derive(Debug)]
pub(super) struct ScannedSegment {
    pub(super) lane: Lane,
    /// The current name of its file; a misnamed one has another id in its header.
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) end: SegmentEnd,
    pub(super) records: u64,
    /// Bytes that an earlier repair covered.
    pub(super) covered: u64,
    pub(super) bad: Vec<DamagedRange>,
    /// Whether a later segment of its lane has frames, so that nothing can be unfinished here.
    pub(super) sealed: bool,
}

/// What the log folder holds.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) segments: BTreeMap<u32, ScannedSegment>,
    /// Files that do not belong here, by name, each with the reason.
    pub(super) strangers: Vec<(String, String)>,
    pub(super) free_files: u64,
    pub(super) free_bytes: u64,
    /// Slices: sequence and payload bytes.
    pub(super) parts: HashMap<Place, (u64, u32)>,
    /// Message frames, with the slices of those that have any.
    pub(super) messages: HashMap<Place, Slices>,
    /// Slices whose end has not been found: bytes by sequence.
    pub(super) unfinished: HashMap<u64, u64>,
    /// Sequences of the large messages whose end was found.
    ended: Vec<u64>,
    /// The changes that repair the log.
    pub(super) mends: Vec<Mend>,
}

impl Survey {
    /// Reads the whole log. Files that are too short are lengthened, so `log` must be on a disk that may change.
    pub(super) fn take(log: &Log, store_id: u128) -> Result<Self, OpenError> {
        let mut survey = Self::default();
        let mut names = log.disk.list(&log.dir).map_err(open_io("list", &log.dir))?;
        // Segments under their own names come before any that claims the same id under the name of another one.
        names.sort_by_key(|name| name.ends_with(MISNAMED));
        let mut misnamed = Vec::new();
        for name in names {
            if let Some((id, lane, at_home)) = survey.identify(log, &name, store_id)? {
                if at_home { survey.read(log, &name, lane, id)? } else { misnamed.push((name, lane, id)) }
            }
        }
        for (name, lane, id) in misnamed {
            if survey.segments.contains_key(&id) {
                survey.strangers.push((name, format!("claims to be segment {id}, and there is another one")));
                continue;
            }
            survey.read(log, &name, lane, id)?;
            let what = format!("is segment {id} under another one's name");
            survey.note(id, DamagedRange { offset: 0, len: 0, what });
        }
        survey.seal(log)?;
        Ok(survey)
    }

    /// Id and lane of a segment file, and whether its name agrees. Records all other files.
    fn identify(
        &mut self,
        log: &Log,
        name: &str,
        store_id: u128,
    ) -> Result<Option<(u32, Lane, bool)>, OpenError> {
        let path = log.dir.join(name);
        let as_segment = name.strip_suffix(MISNAMED).map(|stem| format!("{stem}.seg"));
        let Some(parsed) = LogFile::parse(as_segment.as_deref().unwrap_or(name)) else { return Ok(None) };
        let file = log.disk.open(&path, OpenMode::Existing).map_err(open_io("open", &path))?;
        let len = file.len().map_err(open_io("read", &path))?;
        let LogFile::Segment(lane, id) = parsed else {
            self.free_files += 1;
            self.free_bytes += len;
            return Ok(None);
        };
        let mut page = vec![0; PAGE as usize];
        let n = file.read_at(&mut page, 0).map_err(open_io("read", &path))?;
        match SegmentHeader::decode(&page[..n]) {
            Ok(header) if header.store_id != store_id => {
                self.strangers.push((name.into(), "is a segment of another store".into()));
                Ok(None)
            }
            Ok(header) => {
                let at_home = (header.lane, header.id) == (lane, id) && as_segment.is_none();
                if len < header.size && u32::try_from(header.size).is_ok() {
                    file.allocate(header.size).map_err(open_io("read", &path))?;
                    let what = format!("the file is cut short: it ends here and not at {}", header.size);
                    self.mends.push(Mend::Lengthen { lane: header.lane, id: header.id, bytes: header.size });
                    self.enter(header.id, header.lane, name, header.size).bad.push(DamagedRange {
                        offset: len,
                        len: header.size - len,
                        what,
                    });
                }
                Ok(Some((header.id, header.lane, at_home)))
            }
            Err(NotASegment::Newer(version)) => Err(OpenError::Format {
                path,
                what: format!(
                    "has format version {version}, this program knows {FORMAT_VERSION}; use the version that wrote it, or a newer one"
                ),
            }),
            Err(NotASegment::Garbage) if as_segment.is_some() => {
                self.strangers.push((name.into(), "is a segment without name or header".into()));
                Ok(None)
            }
            Err(NotASegment::Garbage) => {
                let what = "the header of the segment does not match its checksum".into();
                self.enter(id, lane, name, len).bad.push(DamagedRange {
                    offset: 0,
                    len: PAGE.min(len),
                    what,
                });
                self.mends.push(Mend::Header { lane, id, size: len.max(PAGE) });
                Ok(Some((id, lane, true)))
            }
        }
    }

    fn enter(&mut self, id: u32, lane: Lane, name: &str, size: u64) -> &mut ScannedSegment {
        self.segments.entry(id).or_insert_with(|| ScannedSegment {
            lane,
            name: name.into(),
            size,
            end: SegmentEnd { offset: PAGE, torn: 0 },
            records: 0,
            covered: 0,
            bad: Vec::new(),
            sealed: false,
        })
    }

    fn note(&mut self, id: u32, bad: DamagedRange) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.bad.push(bad);
        }
    }

    /// Reads the frames of one segment.
    fn read(&mut self, log: &Log, name: &str, lane: Lane, id: u32) -> Result<(), OpenError> {
        let path = log.dir.join(name);
        let io = |action| open_io(action, &path);
        let file = log.disk.open(&path, OpenMode::Existing).map_err(io("open"))?;
        let size = file.len().map_err(io("read"))?;
        self.enter(id, lane, name, size);
        let (mut records, mut covered, mut bad) = (0, 0, Vec::new());
        let mut unknown = None;
        let end = scan(&*file, id, PAGE, |found| {
            match found {
                ScanFinding::Frame(place, header, body) => {
                    records += 1;
                    if header.kind == Kind::Part && header.sequence == 0 {
                        covered += header.frame_len();
                    } else if let Err(what) = self.frame(place, &header, body) {
                        bad.push(DamagedRange { offset: place.offset.into(), len: header.frame_len(), what });
                    }
                }
                ScanFinding::Unknown(place, kind) => unknown = unknown.or(Some((place, kind))),
                ScanFinding::Damaged(offset, len) => {
                    bad.push(DamagedRange { offset, len, what: describe(&*file, id, offset)? });
                }
            }
            Ok(())
        })
        .map_err(io("read"))?;
        if let Some((place, kind)) = unknown {
            let what = format!(
                "holds a frame of unknown kind {kind} at offset {}; use the version that wrote it, or a newer one",
                place.offset
            );
            return Err(OpenError::Format { path, what });
        }
        for DamagedRange { offset, len, .. } in &bad {
            self.mends.push(Mend::Cover { lane, id, offset: *offset, len: *len });
        }
        if let Some(segment) = self.segments.get_mut(&id) {
            (segment.end, segment.records, segment.covered) = (end, records, covered);
            segment.bad.append(&mut bad);
        }
        Ok(())
    }

    /// Records a frame; an error says why it does not decode.
    fn frame(&mut self, place: Place, header: &Header, body: &[u8]) -> Result<(), String> {
        let (fields, payload) = body.split_at_checked(header.fields_len.into()).unwrap_or((body, &[]));
        let decodes = match header.kind {
            Kind::Part => {
                self.parts.insert(place, (header.sequence, header.body_len));
                *self.unfinished.entry(header.sequence).or_default() += u64::from(header.body_len);
                true
            }
            Kind::Message | Kind::Commit => match MessageFields::decode(fields) {
                Ok(f) if f.party.is_empty() || PartyId::new(f.party).is_ok() => {
                    let is_large = header.kind == Kind::Commit;
                    Slices::decode(if is_large { payload } else { &[] }).is_ok_and(|slices| {
                        self.ended.extend(is_large.then_some(slices.sequence(header.sequence)));
                        self.messages.insert(place, slices);
                        true
                    })
                }
                _ => false,
            },
            Kind::Settle => SettleFields::decode(fields).is_ok(),
            Kind::Dead => DeadFields::decode(fields).is_ok(),
            Kind::Read => ReadNote::decode(fields).is_ok(),
            Kind::Named => AnotherSendKey::decode(header.sequence, fields).is_ok(),
        };
        if decodes { Ok(()) } else { Err("a frame that checks out and does not decode".into()) }
    }

    /// Finds the last segment of each lane. An unfinished write in an earlier one is damage.
    fn seal(&mut self, log: &Log) -> Result<(), OpenError> {
        for lane in LANES {
            let used = |s: &ScannedSegment| s.lane == lane && s.records > 0;
            let Some(last) = self.segments.iter().rfind(|(_, s)| used(s)).map(|(id, _)| *id) else {
                continue;
            };
            for (id, segment) in self.segments.range_mut(..last).filter(|(_, s)| s.lane == lane) {
                segment.sealed = true;
                if segment.end.torn == 0 {
                    continue;
                }
                let path = log.dir.join(&segment.name);
                let file = log.disk.open(&path, OpenMode::Existing).map_err(open_io("open", &path))?;
                let offset = segment.end.offset;
                let len = garbage_len(&*file, offset, segment.end.torn).map_err(open_io("read", &path))?;
                let what = describe(&*file, *id, offset).map_err(open_io("read", &path))?;
                segment.end = SegmentEnd { offset: offset + len, torn: 0 };
                segment.bad.push(DamagedRange { offset, len, what });
                self.mends.push(Mend::Cover { lane, id: *id, offset, len });
            }
        }
        for sequence in std::mem::take(&mut self.ended) {
            self.unfinished.remove(&sequence);
        }
        Ok(())
    }
}

/// Describes a damaged frame, as far as its header can be read.
fn describe(file: &dyn DiskFile, id: u32, offset: u64) -> io::Result<String> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_at(&mut bytes, offset)?;
    let place = Place { segment: id, offset: offset as u32 };
    let Ok(header) = Header::decode(&bytes, place) else {
        return Ok("bytes that are no frame".into());
    };
    let what = match header.kind {
        Kind::Message => "a message",
        Kind::Part => "a slice of a large message",
        Kind::Commit => "the end of a large message",
        Kind::Settle => "the record that a message is settled",
        Kind::Dead => "the record of a dead letter",
        Kind::Read => "the record that messages were read",
        Kind::Named => "the record of one more key of a send",
    };
    let mut fields = vec![0; header.fields_len.into()];
    file.read_at(&mut fields, offset + HEADER_BYTES as u64)?;
    let named = match MessageFields::decode(&fields) {
        Ok(f) if matches!(header.kind, Kind::Message | Kind::Commit) => {
            format!(", by what is left of it {:?} ({:?})", f.id, f.party)
        }
        _ => String::new(),
    };
    Ok(format!("{what} whose content does not match its checksum{named}"))
}

/// Length of what is not a frame at `offset` of a sealed segment, `least` bytes or more. It ends where a write ended: with zeros
/// up to the end of a page.
fn garbage_len(file: &dyn DiskFile, offset: u64, least: u64) -> io::Result<u64> {
    const ZEROS: usize = HEADER_BYTES;
    let size = file.len()?;
    let mut end = (offset + least.max(HEADER_BYTES as u64)).min(size);
    let mut next = [0; ZEROS];
    let n = file.read_at(&mut next, end)?;
    if next[..n].iter().all(|b| *b == 0) {
        return Ok(end - offset);
    }
    end = (end + ZEROS as u64).next_multiple_of(PAGE);
    while end < size {
        file.read_at(&mut next, end - ZEROS as u64)?;
        if next.iter().all(|b| *b == 0) {
            return Ok(end - ZEROS as u64 - offset);
        }
        end += PAGE;
    }
    Ok(size - offset)
}
