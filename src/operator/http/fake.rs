//! A made-up gateway with awkward values.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use petnet_storage::{DeadReason, PartyId, SECONDS, Spreading, StoreStats};

use super::StatusSource;
use crate::proto::admin::{
    Certificate, DeadLetter, DeadLetters, Mailbox, Peer, RefusedReload, StatusResponse, Store,
};
use crate::record::meters::Meters;

/// A party that tries to be markup, and a label that tries to end early.
pub(super) const AWKWARD: &str = "<img src=x onerror=alert(1)> \"\\";

#[derive(Debug)]
pub(super) struct FakeSource {
    pub(super) meters: Meters,
    pub(super) syncs: Spreading,
    pub(super) poisoned: AtomicBool,
    /// Whether its status never comes.
    pub(super) hangs: AtomicBool,
}

impl Default for FakeSource {
    fn default() -> Self {
        let fake = Self {
            meters: Meters::default(),
            syncs: Spreading::new(SECONDS),
            poisoned: AtomicBool::default(),
            hangs: AtomicBool::default(),
        };
        fake.meters.died(&DeadReason::Expired);
        let peer = fake.meters.peer(&PartyId::new("party_b").unwrap());
        peer.delivered.add(100);
        peer.failed_attempts.store(7, Ordering::Relaxed);
        fake
    }
}

fn peer(party: &str, state: &str) -> Peer {
    Peer { party: party.to_owned(), state: state.to_owned(), ..Peer::default() }
}

#[async_trait]
impl StatusSource for FakeSource {
    async fn status(&self) -> StatusResponse {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let poisoned = self.poisoned.load(Ordering::Relaxed);
        StatusResponse {
            party: "party_a".to_owned(),
            version: "0.1.0".to_owned(),
            state: if poisoned { "poisoned" } else { "serving" }.to_owned(),
            state_reason: if poisoned { "sync of 1.log failed" } else { "" }.to_owned(),
            uptime_seconds: 60,
            certificates: vec![Certificate {
                name: "server.crt".to_owned(),
                expires_ms: 1_700_000_000_000,
                seconds_left: -5,
            }],
            store: Some(Store { disk_total_bytes: 1 << 40, disk_free_bytes: 1 << 30, ..Store::default() }),
            peers: vec![
                Peer { pending: 1_000_000, oldest_seconds: Some(86_400), ..peer("party_b", "down") },
                peer(AWKWARD, "paused"),
                peer("party_c", "unknown"),
            ],
            mailbox: Some(Mailbox { messages: 3, waiting: 2, subscriptions: 1 }),
            dead_letters: vec![DeadLetters { reason: "expired".to_owned(), messages: 1 }],
            refused_reloads: vec![RefusedReload {
                what: "certificates".to_owned(),
                why: AWKWARD.to_owned(),
                since_ms: 1,
            }],
            ..StatusResponse::default()
        }
    }

    async fn dead_letters(&self, limit: usize) -> Vec<DeadLetter> {
        let letter = |sequence: u64| DeadLetter {
            sequence,
            peer: "party_b".to_owned(),
            message_id: format!("secret-id-{sequence}"),
            reason: "expired".to_owned(),
            ..DeadLetter::default()
        };
        (0..1000).rev().map(letter).take(limit).collect()
    }

    fn stats(&self) -> StoreStats {
        StoreStats { syncs: 1, sync_seconds: self.syncs.spread(), ..StoreStats::default() }
    }

    fn meters(&self) -> &Meters {
        &self.meters
    }

    fn is_serving(&self) -> bool {
        !self.poisoned.load(Ordering::Relaxed)
    }

    fn send_ttl(&self) -> Option<Duration> {
        Some(Duration::from_secs(604_800))
    }

    fn dropped_lines(&self) -> u64 {
        4
    }
}
