//! The forwarders of all peers: two for each peer, one per lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{Engine, PartyId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::forwarder::{Course, Forwarder, ForwarderContext, Lane, Window};
use crate::delivery::hints::Hints;
use crate::delivery::paused::Paused;
use crate::delivery::peer_link::{Fence, LinkLimits, PeerLink};
use crate::record::recorder::Record;
use crate::rules::parties::Parties;
use crate::tls::trust::CurrentTrust;

/// Forwarders end by themselves within this time; after it the store is closed in any case.
const END: Duration = Duration::from_secs(2);

/// What forwarders need, and the forwarders that are running.
#[derive(Debug)]
pub(crate) struct Peers {
    own: PartyId,
    hints: Arc<Hints>,
    record: Arc<Record>,
    engine: Arc<dyn Engine>,
    trust: CurrentTrust,
    window: Window,
    link: LinkLimits,
    running: TaskTracker,
    stop: CancellationToken,
    paused: Paused,
}

impl Peers {
    /// Starts with no forwarder running.
    pub(crate) fn new(
        own: PartyId,
        (window, link): (Window, LinkLimits),
        (hints, record): (Arc<Hints>, Arc<Record>),
        engine: Arc<dyn Engine>,
        trust: CurrentTrust,
        paused: Paused,
    ) -> Self {
        let (running, stop) = (TaskTracker::new(), CancellationToken::new());
        Self { own, hints, record, engine, trust, window, link, running, stop, paused }
    }

    /// Starts the forwarders of every party that has none yet. Those of a party that was removed from the file stay: its
    /// messages wait for it.
    pub(crate) fn start(&self, parties: &Parties) {
        for peer in parties.parties.keys().filter(|party| **party != self.own) {
            let paused = self.is_paused(peer);
            let Some((wakes, course)) = self.hints.add(peer, paused) else { continue };
            if paused {
                tracing::warn!(%peer, "deliveries are paused; petnet queue resume begins them again");
            }
            let context = ForwarderContext { wakes, course, record: self.record.clone() };
            for lane in [Lane::Small, Lane::Bulk] {
                let link = PeerLink::new(
                    Fence::new(self.engine.clone(), peer.clone()),
                    self.trust.clone(),
                    self.link,
                    self.running.clone(),
                );
                let window = Window { bytes: lane.share(self.window.bytes), ..self.window };
                let forwarder =
                    Forwarder::new(peer.clone(), lane, self.engine.clone(), link, context.clone(), window);
                self.running.spawn(forwarder.run(self.stop.clone()));
            }
        }
    }

    /// Why every peer is paused, if the file that lists the paused peers is damaged.
    pub(crate) fn paused_by_damage(&self) -> Option<String> {
        self.paused.damage()
    }

    /// How deliveries to each peer go.
    pub(crate) fn courses(&self) -> BTreeMap<PartyId, Arc<Course>> {
        self.hints.courses()
    }

    /// Whether the operator paused the peer, even one that is not in the party file.
    pub(crate) fn is_paused(&self, peer: &PartyId) -> bool {
        self.engine.pauses().map_or_else(|| self.paused.has(peer), |all| all.borrow().contains(peer))
    }

    /// Where the store keeps pauses for all gateways of the party: applies the pauses that were set at any of them. Pauses
    /// that an earlier version kept in the data folder are moved there.
    pub(crate) async fn follow_pauses(self: &Arc<Self>, parties: &Parties) {
        let Some(mut in_redis) = self.engine.pauses() else { return };
        for peer in parties.parties.keys().filter(|peer| self.paused.has(peer)) {
            let kept = self.engine.pause(peer, true).await.map_err(|why| why.to_string());
            let kept = kept.and_then(|_| self.paused.set(peer, false, || ()).map_err(|why| why.to_string()));
            match kept {
                Ok(_) => tracing::info!(%peer, "its pause is in Redis now, for all gateways"),
                Err(why) => {
                    tracing::warn!(%peer, why, "its pause in the data folder cannot be moved to Redis");
                }
            }
        }
        let (peers, stop) = (self.clone(), self.stop.clone());
        self.running.spawn(async move {
            loop {
                let all = in_redis.borrow_and_update().clone();
                for (peer, course) in peers.courses() {
                    let paused = all.contains(&peer);
                    if course.is_paused() != paused {
                        tracing::info!(%peer, paused, "whether deliveries are paused was changed for all gateways");
                        course.pause(paused);
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = in_redis.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    /// Stops beginning attempts for a peer, or begins them again; survives restarts. False if that was so already. On an
    /// error, the change could not be stored and nothing has changed. Blocks.
    pub(crate) fn pause(&self, peer: &PartyId, paused: bool) -> std::io::Result<bool> {
        let course = self.courses().remove(peer);
        // What is stored and what is done must not differ when two operators act at the same time.
        self.paused.set(peer, paused, || {
            if let Some(course) = course {
                course.pause(paused);
            }
        })
    }

    /// Logs the parties for which messages wait and which are not in the party file.
    pub(crate) async fn tell_of_strangers(&self) {
        let peers: Vec<PartyId> = match self.engine.peers_with_pending().await {
            Ok(peers) => peers,
            Err(error) => {
                tracing::warn!(%error, "cannot list the peers with pending messages");
                return;
            }
        };
        for peer in peers.iter().filter(|peer| !self.hints.knows(peer)) {
            tracing::warn!(%peer, "messages are pending for a party that is not in the party file; they wait for it");
        }
    }

    /// Ends all forwarders.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        if tokio::time::timeout(END, self.running.wait()).await.is_err() {
            tracing::warn!("a forwarder did not end in time");
        }
    }
}
