//! Looks at everything that a gateway needs, from its settings to its peers, and says how to mend what is wrong.
//!
//! Changes nothing: no file is left behind, nothing is delivered, and a gateway that runs on the same settings is not
//! disturbed.

mod certificates;
mod gateway;
mod machine;
mod peers;
#[cfg(feature = "redis")]
mod redis;

pub(crate) use gateway::refusals;
pub(crate) use machine::OTHER_FILES;

use std::fmt;
use std::time::Duration;

use crate::config::Configuration;

/// How much is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckDepth {
    /// Time limit for each step towards a peer.
    pub(crate) timeout: Duration,
    /// The largest message that is tried, in bytes.
    pub(crate) largest: u64,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Good,
    /// It works, but should not stay like that.
    Warning,
    /// It does not work.
    Bad,
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Severity,
    pub(crate) what: String,
    /// What to do about it; empty if nothing needs to be done.
    pub(crate) advice: String,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { level: Severity::Good, what: what.into(), advice: String::new() }
    }

    fn warning(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Severity::Warning, what: what.into(), advice: advice.into() }
    }

    fn bad(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Severity::Bad, what: what.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.level {
            Severity::Good => "ok  ",
            Severity::Warning => "WARN",
            Severity::Bad => "BAD ",
        };
        write!(f, "  {word}  {}", self.what)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n        -> {}", self.advice) }
    }
}

/// Checks everything; `tell` gets the heading and the findings of each part as soon as they are there.
pub(crate) async fn examine(
    checked: &Configuration,
    depth: CheckDepth,
    mut tell: impl FnMut(&str, Vec<Finding>),
) {
    let Configuration { settings, parties, notices, .. } = checked;
    // The file on the disk is judged here, but a running gateway may be using another one.
    let refused = gateway::refusals(&settings.data_dir, depth.timeout).await;
    let what = if refused.is_empty() {
        "every setting and the party file"
    } else {
        "every setting, as it is on the disk"
    };
    let mut of_settings = vec![Finding::good(format!("{}: {what}", settings.party))];
    of_settings.extend(refused);
    let certificates = certificates::examine(settings, parties);
    let is_told = |notice: &&String| certificates.iter().any(|finding| finding.what == **notice);
    of_settings.extend(notices.iter().filter(|n| !is_told(n)).map(|notice| Finding::warning(notice, "")));
    tell("settings", of_settings);
    tell("certificates", certificates);
    tell("this machine", machine::examine(settings).await);
    if let Some(found) = gateway::examine(&settings.data_dir, depth.timeout).await {
        tell("the gateway that runs on the data folder", found);
    }
    for (party, connections) in parties.parties.iter().filter(|(party, _)| **party != settings.party) {
        for connection in connections {
            let heading = format!("{party} at {}", connection.url);
            tell(&heading, peers::examine(settings, parties, party, connection, depth).await);
        }
    }
}
