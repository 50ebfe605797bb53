//! Which messages a log holds, found by the code of a start on a view of the folder that keeps all changes to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::survey::Survey;
use crate::core::options::StoreOptions;
use crate::face::direction::Class;
use crate::face::error::OpenError;
use crate::index::entry::Entry;
use crate::log::data_folder::text::Format;
use crate::log::files::Log;
use crate::log::frame::{Extent, Kind, MessageFields, Place, Slices, frame_len};
use crate::log::segment::LogFile;
use crate::opening::recovery::{ReadBack, read_back};
use crate::opening::replay::ReplayFailure;

/// What live messages need from a segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SegmentNeeds {
    /// Messages whose (last) frame is here.
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// A live message that lacks slices.
#[derive(Debug)]
pub(super) struct BrokenMessage {
    /// 0 for a message that a start takes for never accepted.
    pub(super) key: u128,
    pub(super) sequence: u64,
    pub(super) place: Place,
    /// File of its last frame.
    pub(super) file: String,
    pub(super) what: String,
}

/// The messages of a log.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) pending: u64,
    pub(super) pending_bytes: u64,
    pub(super) mailbox: u64,
    pub(super) mailbox_bytes: u64,
    pub(super) dead_letters: u64,
    pub(super) needs: BTreeMap<u32, SegmentNeeds>,
    pub(super) given_back: BTreeSet<u32>,
    pub(super) broken: Vec<BrokenMessage>,
    /// Names of segments whose files are gone, and how many messages the index had in them.
    pub(super) lost_segments: Vec<(String, u32)>,
}

impl Contents {
    /// Reads the whole log into memory, like a start without an index; also returns what was read back.
    pub(super) fn read(
        options: &StoreOptions,
        format: Format,
        survey: &Survey,
    ) -> Result<(Self, ReadBack), OpenError> {
        let found = read_back(options, format).map_err(opened)?;
        let mut contents = Self::default();
        for (key, entry) in &found.state.live {
            if entry.class == Class::Outgoing {
                contents.pending += 1;
                contents.pending_bytes += entry.len;
            } else {
                contents.mailbox += 1;
                contents.mailbox_bytes += entry.len;
            }
            contents.count(*key, entry, survey, &found.log);
        }
        contents.dead_letters = found.state.dead.len() as u64;
        for letter in found.state.dead.values() {
            contents.count(letter.key, &letter.entry, survey, &found.log);
            let place = letter.death.place;
            contents.needs.entry(place.segment).or_default().bytes +=
                u64::from(letter.death.frame_len).next_multiple_of(8);
        }
        contents.find_unfinished(&found, survey);
        contents.broken.sort_by_key(|broken| broken.place);
        let ids = survey.segments.keys().filter(|id| !found.state.accounts.contains_key(id));
        contents.given_back = ids.copied().collect();
        contents.lost_segments = lost_segments(&found, survey);
        Ok((contents, found))
    }

    /// Counts a live message and what it needs.
    fn count(&mut self, key: u128, entry: &Entry, survey: &Survey, log: &Log) {
        let needs = self.needs.entry(entry.place.segment).or_default();
        needs.messages += 1;
        needs.bytes += u64::from(entry.frame_len).next_multiple_of(8);
        let Some(slices) = survey.messages.get(&entry.place) else { return };
        let (sequence, extents) = (slices.sequence(entry.sequence), &slices.extents);
        for extent in extents.iter().filter(|e| is_whole(survey, sequence, e)) {
            self.needs.entry(extent.place.segment).or_default().bytes += frame_len(extent.len);
        }
        let missing = extents.iter().filter(|e| !is_whole(survey, sequence, e)).count();
        if missing == 0 && (extents.is_empty() || slices.len() == entry.len) {
            return;
        }
        let Some(segment) = survey.segments.get(&entry.place.segment) else { return };
        let frame = log.read(segment.lane, entry.place, entry.frame_len).ok();
        let named = frame.map(|frame| named(frame.fields())).unwrap_or_default();
        let what = format!("the large message{named} lacks {missing} of its {} slices", extents.len());
        let file = segment.name.clone();
        self.broken.push(BrokenMessage { key, sequence: entry.sequence, place: entry.place, file, what });
    }

    /// Finds large messages that the start took for never accepted, since slices are missing near the end of the log.
    fn find_unfinished(&mut self, found: &ReadBack, survey: &Survey) {
        let is_large =
            |place: &Place, slices: &Slices| !slices.extents.is_empty() && found.state.is_valid(*place);
        for (place, slices) in survey.messages.iter().filter(|(place, slices)| is_large(place, slices)) {
            let Some(segment) = survey.segments.get(&place.segment) else { continue };
            let Ok(frame) = found.log.read(segment.lane, *place, 0) else { continue };
            if frame.header.kind != Kind::Part {
                continue;
            }
            let sequence = frame.header.sequence;
            let (of, extents) = (slices.sequence(sequence), &slices.extents);
            let missing = extents.iter().filter(|e| !is_whole(survey, of, e)).count();
            let what = format!(
                "the large message{} lacks {missing} of its {} slices; if the last write was cut off, it was never accepted",
                named(&frame.payload()),
                extents.len()
            );
            self.broken.push(BrokenMessage {
                key: 0,
                sequence,
                place: *place,
                file: segment.name.clone(),
                what,
            });
        }
    }
}

fn is_whole(survey: &Survey, sequence: u64, extent: &Extent) -> bool {
    survey.parts.get(&extent.place) == Some(&(sequence, extent.len))
}

/// Names the message, according to its frame.
fn named(fields: &[u8]) -> String {
    let Ok(f) = MessageFields::decode(fields) else { return String::new() };
    let way = if f.class == Class::Outgoing { "to" } else { "from" };
    format!(" {:?} {way} {:?}", f.id, f.party)
}

/// An error of the index cannot happen here, where there is no index.
pub(super) fn opened(failure: ReplayFailure) -> OpenError {
    match failure {
        ReplayFailure::Open(error) => error,
        ReplayFailure::Index(error) => OpenError::Io {
            action: "read",
            path: "the index".into(),
            source: io::Error::other(error.to_string()),
        },
    }
}

fn lost_segments(found: &ReadBack, survey: &Survey) -> Vec<(String, u32)> {
    let listed = found.checkpoint.segments.iter();
    listed
        .filter(|(id, a)| a.cold.count > 0 && !a.was_empty && !survey.segments.contains_key(id))
        .map(|(id, a)| (LogFile::Segment(a.lane, *id).name(), a.cold.count))
        .collect()
}
