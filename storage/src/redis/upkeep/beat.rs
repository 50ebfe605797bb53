//! The result of a heartbeat: who delivers to which peer, what expired, what the operator and the settings want, and figures.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value};

use crate::face::engine::PeerPending;
use crate::face::message::{Correspondent, DeadLetter, DeadReason, PartyId, Sequence};
use crate::redis::content::letters::{GoneLetter, id_of_letter, tell_gone};
use crate::redis::content::record::FIRST_SECOND;
use crate::redis::leases::since_boot;
use crate::redis::room::LackOfRoom;
use crate::redis::shared::RedisShared;

/// A peer that has or had messages.
pub(crate) struct Peer {
    pub(crate) id: PartyId,
    owner: String,
    messages: u64,
    bytes: u64,
}

/// The result of a heartbeat.
pub(crate) struct Beat {
    pub(crate) peers: Vec<Peer>,
    died: Vec<DeadLetter>,
    letters_gone: Vec<GoneLetter>,
    pub(crate) left_to_expire: bool,
    mailbox: u64,
    dead: u64,
    pub(crate) time: u64,
    used: u64,
    mail_expired: u64,
    /// Why Redis accepts no messages, in its own words.
    pub(crate) refused: Option<Arc<str>>,
    settings: Vec<(String, u64)>,
    paused: BTreeSet<PartyId>,
    /// Whether messages of gateways of an older version are to be listed, by this gateway.
    pub(crate) unlisted: bool,
}

impl Beat {
    /// Decodes the answer of the script; `None` if it is not one.
    pub(crate) fn read(answer: &[Value]) -> Option<Self> {
        fn get<T: FromRedisValue>(value: &Value) -> Option<T> {
            T::from_redis_value_ref(value).ok()
        }
        let [
            peers,
            died,
            gone,
            budget,
            mailbox,
            dead,
            time,
            used,
            mail_expired,
            refused,
            settings,
            paused,
            unread,
            unlisted,
        ] = answer
        else {
            return None;
        };
        let peers: Vec<(String, String, u64, u64)> = get(peers)?;
        let died: Vec<(u64, String, Vec<u8>, u64)> = get(died)?;
        let unread: Vec<ExpiredUnread> = get(unread)?;
        let peer = |(peer, owner, messages, bytes)| {
            Some(Peer { id: PartyId::new(peer).ok()?, owner, messages, bytes })
        };
        let letter =
            |(sequence, peer, id, len): (u64, String, Vec<u8>, u64)| expired(sequence, &peer, &id, len);
        Some(Self {
            peers: peers.into_iter().filter_map(peer).collect(),
            died: died
                .into_iter()
                .filter_map(letter)
                .chain(unread.into_iter().filter_map(unread_letter))
                .collect(),
            letters_gone: get(gone)?,
            left_to_expire: get::<i64>(budget)? <= 0,
            mailbox: get(mailbox)?,
            dead: get(dead)?,
            time: get(time)?,
            used: get(used)?,
            mail_expired: get(mail_expired)?,
            refused: Some(get::<String>(refused)?).filter(|why| !why.is_empty()).map(Arc::from),
            // A value that is not a number is not one of ours.
            unlisted: get::<u8>(unlisted)? == 1,
            settings: get::<HashMap<String, String>>(settings)?
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
                .collect(),
            paused: get::<Vec<String>>(paused)?.into_iter().filter_map(|p| PartyId::new(p).ok()).collect(),
        })
    }
}

fn expired(sequence: u64, peer: &str, id: &[u8], len: u64) -> Option<DeadLetter> {
    let id = id_of_letter(id)?;
    let correspondent = Correspondent::To(PartyId::new(peer).ok()?);
    let (sequence, reason) = (Sequence(sequence), DeadReason::Expired);
    Some(DeadLetter { sequence, correspondent, id, len, reason, dead_for: Some(0) })
}

/// A message that expired unread: sequence, sender, class, id, length; without a class, its record is damaged.
type ExpiredUnread = (u64, String, String, Vec<u8>, u64);

fn unread_letter((sequence, sender, class, id, len): ExpiredUnread) -> Option<DeadLetter> {
    let damaged = || DeadReason::Damaged("its record in Redis cannot be read".into());
    Some(DeadLetter {
        sequence: Sequence(sequence),
        correspondent: Correspondent::From(PartyId::new(sender).ok()),
        id: id_of_letter(&id)?,
        len,
        reason: if class.is_empty() { damaged() } else { DeadReason::Unread },
        dead_for: Some(0),
    })
}

impl RedisShared {
    /// Applies the result of a heartbeat.
    pub(crate) fn take_beat(&self, asked: Duration, beat: &Beat) {
        let owners: HashMap<PartyId, String> =
            beat.peers.iter().map(|p| (p.id.clone(), p.owner.clone())).collect();
        let new = self.leases.lock().agreed(asked, since_boot(), &self.name, &owners);
        for peer in new {
            tracing::debug!(%peer, "this gateway delivers to it now");
            self.hint(&peer);
        }
        for letter in &beat.died {
            self.observer.0.died(letter);
        }
        tell_gone(&beat.letters_gone, self.rules().dead_letter_bytes());
        self.follow(&beat.settings);
        self.sessions.set_lacking(LackOfRoom::of(beat.used, self.rules().max_bytes()));
        self.paused.send_if_modified(|paused| {
            let changed = **paused != beat.paused;
            if changed {
                *paused = Arc::new(beat.paused.clone());
            }
            changed
        });
        self.tell_early();
        let mut stats = self.stats.lock();
        let pending = |p: &Peer| PeerPending { peer: p.id.clone(), messages: p.messages, bytes: p.bytes };
        stats.pending = beat.peers.iter().filter(|p| p.messages > 0).map(pending).collect();
        stats.mailbox_messages = beat.mailbox;
        stats.dead_letters = beat.dead;
        stats.used_bytes = beat.used;
        stats.expired += beat.mail_expired;
        stats.quota_bytes = self.rules().max_bytes();
        stats.limit_bytes = stats.quota_bytes;
        stats.service_seconds = beat.time.saturating_sub(FIRST_SECOND);
    }
}
