//! What a story did and found, as one line. `scripts/test` and `scripts/recovery` collect the lines.

use std::fmt;
use std::fs::File;
use std::io::Write;

use crate::ledger::{Ledger, Verdict};

/// The numbers of one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes killed.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// System calls at which the process was killed or made to fail.
    pub crash_points: u64,
    /// Accepted messages.
    pub accepted: u64,
    /// Messages that were refused for sure.
    pub refused: u64,
    /// Messages of which the sender was told nothing, or that it is not known.
    pub unknown: u64,
    /// Of them, over all faults, those that no reader had yet when the fault came.
    pub at_risk: u64,
    /// Promised, and not there.
    pub lost: u64,
    /// Came back after something newer, or after its time.
    pub duplicated: u64,
    /// Refused for sure, and there nevertheless.
    pub kept: u64,
    /// Bytes that nobody sent.
    pub wrong: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.crash_points += other.crash_points;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.at_risk += other.at_risk;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.kept += other.kept;
        self.wrong += other.wrong;
    }

    /// Counts what a look at a receiver came to.
    pub fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Whole | Verdict::Absent => {}
            Verdict::Lost => self.lost += 1,
            Verdict::Duplicated => self.duplicated += 1,
            Verdict::Kept => self.kept += 1,
            Verdict::Wrong => self.wrong += 1,
        }
    }

    /// Takes over what the senders were told.
    pub fn sent(&mut self, ledger: &Ledger) {
        (self.accepted, self.refused, self.unknown) = (ledger.accepted(), ledger.refused(), ledger.unknown());
    }

    /// Shows the line, appends it to the file that `PETNET_COUNTS` names, and fails unless all is well.
    pub fn conclude(&self, story: &str, seed: u64) {
        let line = self.note(story, seed);
        assert_eq!(self.lost, 0, "{line}");
        self.hold(&line);
    }

    /// The same where the setting promises less: how many were lost is shown apart, and not held against it.
    pub fn conclude_but_for_losses(mut self, story: &str, seed: u64) {
        println!(
            "recovery: {story}: seed {seed}, lost as its settings say: {}",
            std::mem::take(&mut self.lost)
        );
        let line = self.note(story, seed);
        self.hold(&line);
    }

    fn note(&self, story: &str, seed: u64) -> String {
        let line = format!("recovery: {story}: seed {seed}, {self}");
        println!("{line}");
        if let Some(path) = std::env::var_os("PETNET_COUNTS") {
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        line
    }

    fn hold(&self, line: &str) {
        assert!(self.at_risk > 0, "no accepted message was put at risk, which proves nothing: {line}");
        assert_eq!((self.duplicated, self.kept, self.wrong), (0, 0, 0), "{line}");
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, power_cuts, crash_points, accepted, refused, unknown, at_risk, .. } = self;
        let Self { lost, duplicated, kept, wrong, .. } = self;
        write!(
            f,
            "kills {kills}, power cuts {power_cuts}, crash points {crash_points}, accepted {accepted}, \
             refused {refused}, unknown {unknown}, at risk {at_risk}, lost {lost}, duplicated {duplicated}, \
             refused and kept {kept}, wrong {wrong}"
        )
    }
}
