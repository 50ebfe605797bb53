//! The only place where the parts meet: start, running, shutdown.
//!
//! Start: open the store, then the forwarders, then listen, so that a gateway that can be reached is a healthy one.
//! Shutdown goes the other way round, and the store closes when nobody can use it any more.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{Engine, OpenError, StoreError, StoreState};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminApi, AdminSocket};
use crate::client_api::SimpleApi;
use crate::config::Settings;
use crate::health::HealthApi;
use crate::http::{self, Http};
use crate::hub::Hub;
use crate::link_api::{LinkApi, Partials};
use crate::listen::Connections;
use crate::mailbox::Mailbox;
use crate::mailbox_api::MailboxApi;
use crate::meters::now_ms;
use crate::overview::{Identity, Minute, Overview};
use crate::parties::Parties;
use crate::paused::Paused;
use crate::peers::Peers;
use crate::reload::Reload;
use crate::server::Server;
use crate::store::{self, Opened};
#[cfg(test)]
use crate::trust::Current;
use crate::trust::Trust;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: u32 = 1024;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The certificates could not be used.
    #[error("TLS cannot be served: {0}")]
    Tls(String),
    /// The address could not be bound.
    #[error("cannot listen on {addr}: {source}; choose another {setting} or stop what uses it")]
    Listen {
        /// `LISTEN_ADDR` or `HTTP_LISTEN_ADDR`.
        setting: &'static str,
        /// Its value.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    found: String,
    engine: Arc<dyn Engine>,
    #[cfg(test)]
    waiters: Arc<crate::waiting::Waiters>,
    #[cfg(test)]
    partials: Arc<Partials>,
    server: Server,
    admin: Option<AdminSocket>,
    http: Option<Http>,
    http_addr: Option<SocketAddr>,
    peers: Arc<Peers>,
    reload: Arc<Notify>,
    #[cfg(test)]
    trust: Current,
    #[cfg(test)]
    readings: watch::Receiver<u64>,
    draining: CancellationToken,
    grace: Duration,
}

impl Gateway {
    /// Opens the store, starts the forwarders, listens; returns when it serves.
    pub async fn start(settings: Settings, parties: Parties) -> Result<Self, StartError> {
        // Before the store: opening a large one only to find the port in use would be a waste.
        let listeners = Listeners::bind(&settings)?;
        let hub = Hub::new(settings.max_waiting, settings.max_subscriptions);
        let opened = store::open(&settings, listeners.addr(), hub.clone()).await?;
        Self::assemble(settings, parties, hub, opened, listeners).await
    }

    /// A whole gateway over an engine that is open already and reports to `hub`.
    #[cfg(test)]
    pub(crate) async fn start_with_engine(
        settings: Settings,
        parties: Parties,
        hub: Arc<Hub>,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&settings)?;
        let opened = Opened {
            engine,
            found: String::new(),
            kind: "test",
            place: String::new(),
            accepted_means: String::new(),
        };
        Self::assemble(settings, parties, hub, opened, listeners).await
    }

    /// Receives that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Large messages that come over links, interrupted ones included.
    #[cfg(test)]
    pub(crate) fn partials(&self) -> &Partials {
        &self.partials
    }

    /// Calls that run.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.server.calls()
    }

    async fn assemble(
        settings: Settings,
        parties: Parties,
        hub: Arc<Hub>,
        opened: Opened,
        listeners: Listeners,
    ) -> Result<Self, StartError> {
        let engine = opened.engine.clone();
        let addr = listeners.addr();
        let draining = CancellationToken::new();
        let trust = Trust::new(&settings, parties.clone(), 0).map_err(StartError::Tls)?;
        let (sender, trust) = watch::channel(Arc::new(trust));
        let peers = Arc::new(Peers::new(
            &settings,
            hub.clone(),
            engine.clone(),
            trust.clone(),
            Paused::load(&settings.data_dir),
        ));
        peers.start(&parties);
        peers.tell_of_strangers().await;
        let reload = Arc::<Notify>::default();
        let reloading = Reload::new(settings.clone(), parties, sender, peers.clone(), reload.clone());
        #[cfg(test)]
        let (current, readings) = (trust.clone(), reloading.readings.subscribe());
        tokio::spawn(reloading.run(draining.clone()));
        let mailbox = Mailbox {
            party: settings.party.clone(),
            trust: trust.clone(),
            engine: engine.clone(),
            waiters: hub.waiters.clone(),
            record: hub.record.clone(),
            max_message_bytes: settings.max_message_bytes,
            max_stream_bytes: settings.max_stream_bytes,
            uploads: [settings.max_uploads; 2].map(|seats| Arc::new(Semaphore::new(seats))),
            draining: draining.clone(),
        };
        let mailbox = Arc::new(mailbox);
        let simple = SimpleApi { mailbox: mailbox.clone(), recv_wait: settings.recv_wait };
        let new = MailboxApi {
            mailbox: mailbox.clone(),
            subscriptions: hub.subscriptions.clone(),
            max_age: settings.limits.connection_age,
        };
        let partials = Partials::new(settings.link_resume);
        let link = LinkApi { mailbox, max_age: settings.limits.connection_age, partials: partials.clone() };
        let health = HealthApi { store: engine.state(), draining: draining.clone() };
        let identity = Identity::new(&settings, addr, listeners.http_addr(), &opened);
        let connections = Connections::new(settings.limits.clone(), trust.clone(), draining.clone());
        let overview = Overview {
            identity,
            engine: engine.clone(),
            hub: hub.clone(),
            peers: peers.clone(),
            trust,
            connections: connections.clone(),
            draining: draining.clone(),
            minute: Minute::default(),
            started: Instant::now(),
            started_ms: now_ms(),
        };
        let overview = Arc::new(overview);
        tokio::spawn(overview.clone().measure());
        let admin = admin(&settings, &overview);
        let http = listeners.http.map(|listener| http::start(listener, overview.clone(), draining.clone()));
        let server = Server::start(listeners.grpc, connections, simple, new, link, health);
        let grace = settings.shutdown_grace;
        Ok(Self {
            addr,
            found: opened.found,
            engine,
            #[cfg(test)]
            waiters: hub.waiters.clone(),
            #[cfg(test)]
            partials,
            server,
            admin,
            http,
            http_addr: overview.identity.http_addr,
            peers,
            reload,
            #[cfg(test)]
            trust: current,
            #[cfg(test)]
            readings,
            draining,
            grace,
        })
    }

    /// Reads the party file and the certificates again, now.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// What is in force.
    #[cfg(test)]
    pub(crate) fn trust(&self) -> &Current {
        &self.trust
    }

    /// Reads again, and returns when that is done.
    #[cfg(test)]
    pub(crate) async fn reload_and_wait(&self) {
        let mut readings = self.readings.clone();
        let before = *readings.borrow_and_update();
        self.reload();
        let all = readings.wait_for(|count| *count > before);
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("it reads").expect("it runs");
    }

    /// Where it listens (the real port when 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where metrics and the status page are.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// What opening the store found, in a line for people.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// The store, for status and statistics.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Resolves with the reason when the store is poisoned and the process must end.
    pub async fn failed(&self) -> String {
        let mut state = self.engine.state();
        loop {
            if let StoreState::Poisoned(why) = &*state.borrow_and_update() {
                return why.to_string();
            }
            if state.changed().await.is_err() {
                // The store is gone without having failed.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Not healthy, refuse new calls, finish running ones within the grace time, last sync.
    pub async fn shutdown(self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.grace;
        tracing::info!(grace = ?self.grace, "shutting down");
        // One token: health turns NOT_SERVING, new calls are refused, waiting receives are answered, the listener
        // closes.
        self.draining.cancel();
        self.server.stop(deadline).await;
        if let Some(admin) = self.admin {
            admin.end().await;
        }
        self.peers.end().await;
        let closed = self.engine.close().await;
        if let Some(http) = self.http {
            http.stop().await;
        }
        let stats = self.engine.stats();
        tracing::info!(appends = stats.appends, syncs = stats.syncs, "shut down");
        closed
    }
}

/// What a gateway listens on.
#[derive(Debug)]
struct Listeners {
    grpc: TcpListener,
    http: Option<TcpListener>,
    wanted: SocketAddr,
}

impl Listeners {
    fn bind(settings: &Settings) -> Result<Self, StartError> {
        let grpc = listen("LISTEN_ADDR", settings.listen_addr)?;
        let http = match settings.http_listen_addr.map(|addr| listen("HTTP_LISTEN_ADDR", addr)) {
            None => None,
            Some(Ok(listener)) => Some(listener),
            Some(Err(why)) if settings.http_required => return Err(why),
            // Two gateways on a machine, of which nobody asked for two pages: messages matter more.
            Some(Err(why)) => {
                tracing::warn!(%why, "no metrics and no status page");
                None
            }
        };
        Ok(Self { grpc, http, wanted: settings.listen_addr })
    }

    fn addr(&self) -> SocketAddr {
        self.grpc.local_addr().unwrap_or(self.wanted)
    }

    fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

/// The operator's socket in the data folder. A gateway without one works all the same.
fn admin(settings: &Settings, overview: &Arc<Overview>) -> Option<AdminSocket> {
    let folder = &settings.data_dir;
    // With Redis nothing else is kept in it, so nobody has made it.
    if let Err(why) = std::fs::DirBuilder::new().mode(0o700).create(folder)
        && why.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::debug!(%why, "the data folder cannot be made");
    }
    let started = AdminSocket::start(folder, AdminApi { overview: overview.clone() });
    let told = |why: &std::io::Error| {
        let folder = folder.display();
        tracing::warn!(%folder, %why, "no admin socket: petnet status, queue and their like cannot ask this gateway");
    };
    started.inspect_err(told).ok()
}

fn listen(setting: &'static str, addr: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the old connections to leave the kernel.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| StartError::Listen { setting, addr, source })
}
