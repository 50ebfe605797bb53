//! The party file: who the parties are and where their gateways listen.
//!
//! The file is PETNet's own, so that an existing one works unchanged. `file` reads it.
//!
//! Invariant: every [`Connection`] here has a usable `host:port`, and certificates given as a path were read.

mod file;

use std::collections::BTreeMap;
use std::path::Path;

use petnet_storage::PartyId;

use crate::rules::mistake::Mistake;
use crate::rules::text;

/// Stands for everybody in a whitelist.
const EVERYBODY: &str = "*";

/// All parties of the party file, our own included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parties {
    /// By party id.
    pub parties: BTreeMap<PartyId, Vec<Connection>>,
}

/// How a connection reaches its party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionType {
    /// Type 1.
    Direct,
    /// Type 2.
    Proxy,
    /// Type 0.
    Other,
}

/// One way to reach a party's gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// `type`.
    pub kind: ConnectionType,
    /// `url`, host:port.
    pub url: String,
    /// `certificates`: PEM text (a path in the file was read); empty if there are none.
    pub certificates: String,
    /// `whitelist`: party ids, or `*`.
    pub whitelist: Vec<String>,
}

impl Parties {
    /// Reads a party file. Returns the parties and notices about what was ignored, or every mistake with its place.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), Vec<Mistake>> {
        match text::read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(why) => {
                let what = format!("CONFIG_FILE_PATH: cannot read the party file {}: {why}", path.display());
                Err(vec![Mistake::of_io(what, &why)])
            }
        }
    }

    /// Parses the text of a party file. `path` names it in errors; relative certificate paths start at its folder.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<String>), Vec<Mistake>> {
        file::parse(text, path)
    }

    /// The connections of a party in the order of the file; none for a party that is not in it.
    pub fn connections(&self, party: &PartyId) -> &[Connection] {
        self.parties.get(party).map_or(&[], Vec::as_slice)
    }

    /// True if the party is in the file.
    pub fn contains(&self, party: &PartyId) -> bool {
        self.parties.contains_key(party)
    }

    /// True if the whitelist of `own` lets `sender` deliver; `None` stands for a peer that does not name itself, which only
    /// `*` admits. Without connections there is no whitelist, and everybody is admitted.
    pub fn whitelist_admits(&self, own: &PartyId, sender: Option<&PartyId>) -> bool {
        let connections = self.connections(own);
        connections.is_empty() || connections.iter().any(|connection| connection.lists(sender))
    }
}

impl Connection {
    /// True if the whitelist lets `party` use this connection.
    pub fn admits(&self, party: &PartyId) -> bool {
        self.lists(Some(party))
    }

    fn lists(&self, party: Option<&PartyId>) -> bool {
        let is_listed =
            |entry: &String| entry == EVERYBODY || party.is_some_and(|party| entry == party.as_str());
        self.whitelist.iter().any(is_listed)
    }
}
