//! The forwarders of all peers: two for each, one of every lane.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use petnet_storage::{Engine, PartyId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::forwarder::{Course, Forwarder, Lane, Told, Window};
use crate::hub::Hub;
use crate::parties::Parties;
use crate::paused::Paused;
use crate::peer_link::{LinkLimits, PeerLink};
use crate::trust::Current;

/// Forwarders end by themselves within this time; then the store is closed in any case.
const END: Duration = Duration::from_secs(2);

/// What forwarders need, and those that run.
#[derive(Debug)]
pub(crate) struct Peers {
    own: PartyId,
    hub: Arc<Hub>,
    engine: Arc<dyn Engine>,
    trust: Current,
    window: Window,
    link: LinkLimits,
    running: TaskTracker,
    stop: CancellationToken,
    paused: Paused,
    courses: RwLock<BTreeMap<PartyId, Arc<Course>>>,
}

impl Peers {
    /// None run yet.
    pub(crate) fn new(
        settings: &Settings,
        hub: Arc<Hub>,
        engine: Arc<dyn Engine>,
        trust: Current,
        paused: Paused,
    ) -> Self {
        let window = Window {
            messages: settings.max_in_flight.max(1),
            bytes: settings.max_in_flight_bytes,
            retry_cap: settings.retry_cap,
        };
        Self {
            own: settings.party.clone(),
            hub,
            engine,
            trust,
            window,
            link: LinkLimits {
                stall: settings.link_stall,
                window: settings.link_window,
                call_bytes: settings.max_message_bytes,
            },
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
            paused,
            courses: RwLock::default(),
        }
    }

    /// Starts the forwarders of every party that has none yet. Those of a party that is gone from the file stay: its
    /// messages wait for it.
    pub(crate) fn start(&self, parties: &Parties) {
        for peer in parties.parties.keys().filter(|party| **party != self.own) {
            let Some(wakes) = self.hub.add(peer) else { continue };
            let paused = self.paused.has(peer);
            if paused {
                tracing::warn!(%peer, "deliveries are paused; petnet queue resume begins them again");
            }
            let course = Arc::new(Course::new(wakes.clone(), paused));
            self.courses.write().unwrap_or_else(PoisonError::into_inner).insert(peer.clone(), course.clone());
            let told = Told { wakes, course, record: self.hub.record.clone() };
            for lane in [Lane::Small, Lane::Bulk] {
                let link = PeerLink::new(peer.clone(), self.trust.clone(), self.link, self.running.clone());
                let window = Window { bytes: lane.share(self.window.bytes), ..self.window };
                let forwarder =
                    Forwarder::new(peer.clone(), lane, self.engine.clone(), link, told.clone(), window);
                self.running.spawn(forwarder.run(self.stop.clone()));
            }
        }
    }

    /// How deliveries to each peer go.
    pub(crate) fn courses(&self) -> BTreeMap<PartyId, Arc<Course>> {
        self.courses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins no attempts for a peer any more, or again; kept over restarts. False: it was so already. An error: that
    /// cannot be kept, and nothing has changed. Blocks.
    pub(crate) fn pause(&self, peer: &PartyId, paused: bool) -> std::io::Result<bool> {
        let course = self.courses().remove(peer);
        // What is kept and what is done must not differ when two operators do it at the same time.
        self.paused.set(peer, paused, || {
            if let Some(course) = course {
                course.pause(paused);
            }
        })
    }

    /// Logs the parties that messages wait for and that the party file does not have.
    pub(crate) async fn tell_of_strangers(&self) {
        let peers: Vec<PartyId> = match self.engine.peers_with_pending().await {
            Ok(peers) => peers,
            Err(error) => {
                tracing::warn!(%error, "cannot list the peers with pending messages");
                return;
            }
        };
        for peer in peers.iter().filter(|peer| !self.hub.knows(peer)) {
            tracing::warn!(%peer, "messages are pending for a party that is not in the party file; they wait for it");
        }
    }

    /// Ends them all.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        if tokio::time::timeout(END, self.running.wait()).await.is_err() {
            tracing::warn!("a forwarder did not end in time");
        }
    }
}
