//! What a story did and found, as one line. `scripts/test` and `scripts/recovery` collect the lines.

use std::fmt;
use std::fs::File;
use std::io::Write;

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
    /// Of them, over all faults, those that no reader had yet when the fault came.
    pub at_risk: u64,
    /// Promised, and not there.
    pub lost: u64,
    /// Came back after something newer, or after its time.
    pub duplicated: u64,
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
        self.at_risk += other.at_risk;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong += other.wrong;
    }

    /// Shows the line, appends it to the file that `PETNET_COUNTS` names, and fails unless all is well.
    pub fn conclude(&self, story: &str, seed: u64) {
        let line = format!("recovery: {story}: seed {seed}, {self}");
        println!("{line}");
        if let Some(path) = std::env::var_os("PETNET_COUNTS") {
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        assert!(self.at_risk > 0, "{story} put no accepted message at risk: it proves nothing");
        assert_eq!((self.lost, self.duplicated, self.wrong), (0, 0, 0), "{line}");
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, power_cuts, crash_points, accepted, at_risk, lost, duplicated, wrong } = self;
        write!(
            f,
            "kills {kills}, power cuts {power_cuts}, crash points {crash_points}, accepted {accepted}, \
             at risk {at_risk}, lost {lost}, duplicated {duplicated}, wrong {wrong}"
        )
    }
}
