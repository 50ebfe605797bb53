//! Gateways for tests: they run over an engine of the test and show their parts.

use std::sync::Arc;
use std::time::Duration;

use petnet_storage::Engine;

use crate::config::Settings;
use crate::gateway::engine::OpenedStore;
use crate::gateway::lifecycle::{Gateway, Listeners, StartError};
use crate::gateway::news::NewsHub;
use crate::rules::parties::Parties;
use crate::server::link_service::PartialUploads;
use crate::tls::trust::CurrentTrust;

impl Gateway {
    /// Starts a whole gateway over an engine that is open already and reports to `hub`.
    pub(crate) async fn start_with_engine(
        settings: Settings,
        parties: Parties,
        hub: Arc<NewsHub>,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&settings)?;
        let opened = OpenedStore {
            engine,
            found: String::new(),
            kind: "test",
            place: String::new(),
            accepted_means: String::new(),
        };
        Self::assemble(settings, parties, hub, opened, listeners).await
    }

    /// Number of receives that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.parts.hub.waiters.len()
    }

    /// Large messages that are coming over links, including interrupted ones.
    pub(crate) fn partials(&self) -> &PartialUploads {
        &self.parts.partials
    }

    /// Number of calls that are running.
    pub(crate) fn calls(&self) -> usize {
        self.server.calls()
    }

    /// For each caller, what it has of the memory of calls and the most it may have.
    pub(crate) fn shares(&self) -> Vec<(u64, u64)> {
        self.server.shares()
    }

    /// The trust that is in force.
    pub(crate) fn trust(&self) -> &CurrentTrust {
        &self.parts.trust
    }

    /// Reads the files again, and returns when that is done.
    pub(crate) async fn reload_and_wait(&self) {
        let mut readings = self.parts.readings.clone();
        let before = *readings.borrow_and_update();
        self.reload();
        let all = readings.wait_for(|count| *count > before);
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("it reads").expect("it runs");
    }
}
