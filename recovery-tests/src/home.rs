//! Where a party keeps its messages: its data folder, or Redis; and what can be read there past its gateways.
//!
//! Invariant: what is read here was written by the scripts of the engine and by nobody else; it is compared with the ledger,
//! so a message that is there in part, or twice, or that nobody sent, is seen even when no gateway shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petnet_redis_servers::{Cluster, RedisServer, Replicated, Reply};

use crate::ledger::Party;

/// Bytes that a message in Redis counts for besides payload, sender and id; the scripts know it, too.
const OVERHEAD: u64 = 400;

/// See the module.
#[derive(Debug, Clone)]
pub enum Home {
    /// The data folder of its only gateway.
    Folder,
    /// One server.
    Server(Arc<RedisServer>),
    /// A primary and a replica, with Sentinels.
    Replicated(Arc<Replicated>),
    /// Three primaries.
    Cluster(Arc<Cluster>),
}

/// What a Redis holds of a party.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages that wait for their reader.
    pub mailbox: u64,
    /// Messages that wait for their peer.
    pub pending: u64,
    /// Messages that were given up.
    pub dead: u64,
    /// Records, of whichever of them.
    pub records: u64,
    /// Bytes that the gateways count for them.
    pub used: u64,
}

/// The bytes that one message in a mailbox counts for.
pub fn cost(sender: Party, id: &str, len: usize) -> u64 {
    OVERHEAD + (sender.name().len() + id.len() + len) as u64
}

impl Home {
    /// A server of its own, with an append-only file that is always synced.
    pub fn server() -> Self {
        Self::Server(Arc::new(RedisServer::start(petnet_redis_servers::Options::default())))
    }

    /// The value of `REDIS_URL`; `None`: there is no Redis.
    pub fn url(&self) -> Option<String> {
        match self {
            Self::Folder => None,
            Self::Server(server) => Some(server.url()),
            Self::Replicated(all) => Some(all.url()),
            Self::Cluster(all) => Some(all.url()),
        }
    }

    /// The only server.
    pub fn redis(&self) -> &RedisServer {
        let Self::Server(server) = self else { panic!("{self:?} is not one server") };
        server
    }

    /// Asks the server that has a party's keys. Not at a folder.
    pub fn ask(&self, words: &[&str]) -> Reply {
        tokio::task::block_in_place(|| match self {
            Self::Folder => panic!("nothing of a folder can be asked"),
            Self::Server(server) => server.command(words),
            Self::Replicated(all) => all.primary().command(words),
            Self::Cluster(all) => {
                let answers = all.servers().iter().map(|server| server.command(words));
                let moved = |reply: &Reply| matches!(reply, Reply::Error(why) if why.starts_with("MOVED"));
                answers.into_iter().find(|reply| !moved(reply)).expect("one of them has the slot")
            }
        })
    }

    /// What there is of a party.
    pub fn held(&self, party: Party) -> Held {
        let prefix = prefix(party);
        let number = |words: &[&str]| match self.ask(words) {
            Reply::Integer(number) => number.cast_unsigned(),
            Reply::Nil => 0,
            reply => reply.text().parse().unwrap_or_else(|_| panic!("{words:?}: {reply}")),
        };
        let key = |name: &str| format!("{prefix}{name}");
        // In a cluster the pattern reaches every key of the node; all of a party are on one.
        let records = match self {
            Self::Cluster(all) => {
                let found = all.servers().iter().map(|server| server.command(&["KEYS", &key("m:*")]));
                found.map(|keys| keys.list().len() as u64).sum()
            }
            _ => self.ask(&["KEYS", &key("m:*")]).list().len() as u64,
        };
        Held {
            mailbox: number(&["ZCARD", &key("mail")]),
            pending: number(&["ZCARD", &key(&format!("pend:{}", party.other().name()))]),
            dead: number(&["ZCARD", &key("dead")]),
            records,
            used: number(&["HGET", &key("state"), "used"]),
        }
    }

    /// Messages in the mailbox of a party that its gateways cannot find, and the other way round; for whoever looks for a fault.
    pub fn astray(&self, party: Party) -> String {
        let key = |name: &str| format!("{}{name}", prefix(party));
        let mail = self.ask(&["ZRANGE", &key("mail"), "0", "-1"]);
        let mail: BTreeSet<String> = mail.list().iter().map(Reply::text).collect();
        let index = self.ask(&["HGETALL", &key("in")]);
        let index: BTreeMap<String, String> =
            index.list().chunks(2).map(|pair| (pair[1].text(), pair[0].text())).collect();
        let lost = mail.iter().filter(|seq| !index.contains_key(*seq)).map(|seq| {
            let head = self.ask(&["GETRANGE", &key(&format!("m:{seq}")), "0", "200"]);
            format!("in the mailbox, under no id: {seq}: {head:?}")
        });
        let stale = index.iter().filter(|(seq, _)| !mail.contains(*seq));
        let stale = stale.map(|(seq, id)| format!("under an id, not in the mailbox: {seq}: {id:?}"));
        let latest =
            mail.iter().rev().take(5).map(|seq| format!("one of the last: {seq}: {:?}", index.get(seq)));
        lost.chain(stale).chain(latest).collect::<Vec<_>>().join("\n")
    }
}

/// The beginning of all keys of a party.
pub fn prefix(party: Party) -> String {
    format!("petnet:{{{}}}:", party.name())
}
