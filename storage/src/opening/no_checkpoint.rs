//! What a start without a checkpoint reports: whether one was lost, or none was written yet.
//!
//! Before the first checkpoint no segment with anything in it is freed, and the first one of each lane never is. So missing
//! numbers are those of files that were prepared and never used, as long as the first ones are there and nobody removed any.

use crate::log::inventory::Inventory;
use crate::log::segment::LANES;

/// At most this many numbers are reported.
const TOLD: usize = 16;

/// What a start found before it read anything.
#[derive(Debug, Default)]
pub(crate) struct BeforeReading {
    /// Numbers of half-made files that it removed.
    pub(crate) removed: Vec<u32>,
    /// Whether the checkpoint files are missing from the folder.
    pub(crate) has_no_files: bool,
}

/// Why there is no checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoCheckpointReason {
    /// None has been needed so far.
    NotYet,
    /// Probably none has been needed so far, but these files of the log are missing.
    NotYetIfUnused(Vec<u32>),
    /// There was one, and it is lost.
    Lost,
}

/// Why there is no checkpoint. `bad`: number of damaged checkpoints.
pub(crate) fn why(before: &BeforeReading, inventory: &Inventory, bad: u64) -> NoCheckpointReason {
    let there = |id: u32| inventory.segments.contains_key(&id) || inventory.free.contains(&id);
    let last = inventory.segments.last_key_value().map_or(0, |(last, _)| *last);
    let missing = (1..last).filter(|id| !there(*id) && !before.removed.contains(id));
    let missing: Vec<u32> = missing.take(TOLD).collect();
    let lacks_first = missing.first().is_some_and(|first| *first <= LANES.len() as u32);
    if bad > 0 || lacks_first || before.has_no_files && last > 0 {
        NoCheckpointReason::Lost
    } else if missing.is_empty() {
        NoCheckpointReason::NotYet
    } else {
        NoCheckpointReason::NotYetIfUnused(missing)
    }
}

impl NoCheckpointReason {
    /// Logs the reason for the operator.
    pub(crate) fn tell(&self) {
        match self {
            Self::NotYet => tracing::debug!("no checkpoint yet: the whole log is read"),
            Self::NotYetIfUnused(missing) => tracing::info!(
                ?missing,
                "no checkpoint yet: the whole log is read; files of it that were prepared and never used are not there"
            ),
            Self::Lost => tracing::warn!(
                "no checkpoint that checks out: the whole log is read; what was delivered and given back is not remembered"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::inventory::SegmentFile;
    use crate::log::segment::Lane;

    fn inventory(segments: &[u32], free: &[u32]) -> Inventory {
        let held = SegmentFile { lane: Lane::Small, size: 1 << 20 };
        Inventory {
            segments: segments.iter().map(|id| (*id, held)).collect(),
            free: free.to_vec(),
            ..Inventory::default()
        }
    }

    #[test]
    fn a_number_that_only_a_half_made_file_had_is_no_sign_of_a_lost_checkpoint() {
        let none = BeforeReading::default();
        let why_of = |segments: &[u32], free: &[u32]| why(&none, &inventory(segments, free), 0);
        assert_eq!(why_of(&[], &[]), NoCheckpointReason::NotYet);
        assert_eq!(why_of(&[1, 2, 4], &[3]), NoCheckpointReason::NotYet);
        assert_eq!(why_of(&[1, 2, 4], &[]), NoCheckpointReason::NotYetIfUnused(vec![3]));
        let removed = BeforeReading { removed: vec![3], ..BeforeReading::default() };
        assert_eq!(why(&removed, &inventory(&[1, 2, 4], &[]), 0), NoCheckpointReason::NotYet);
        assert_eq!(
            why_of(&[2, 3, 4], &[]),
            NoCheckpointReason::Lost,
            "the first one does not go without a checkpoint"
        );
        assert_eq!(why_of(&[1, 3, 4], &[]), NoCheckpointReason::Lost);
        assert_eq!(why(&none, &inventory(&[1, 2], &[]), 1), NoCheckpointReason::Lost);
        let has_no_files = BeforeReading { has_no_files: true, ..BeforeReading::default() };
        assert_eq!(
            why(&has_no_files, &inventory(&[1, 2], &[]), 0),
            NoCheckpointReason::Lost,
            "they were removed"
        );
        assert_eq!(why(&has_no_files, &inventory(&[], &[]), 0), NoCheckpointReason::NotYet, "a new folder");
    }
}
