//! The only place where the parts meet: start, running, shutdown.
//!
//! Start: open the store, then the forwarders, then listen, so that a gateway that can be reached is a healthy one.
//! Shutdown happens in the reverse order, and the store closes once nobody can use it any more.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use petnet_storage::{Engine, OpenError, StoreError, StoreState};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::delivery::forwarder::Window;
use crate::delivery::forwarders::Peers;
use crate::delivery::paused::Paused;
use crate::delivery::peer_link::LinkLimits;
use crate::gateway::engine::{self, OpenedStore};
use crate::gateway::news::NewsHub;
use crate::gateway::reload::ReloadTask;
use crate::mailbox::Mailbox;
use crate::mailbox::uploads::Uploads;
use crate::operator::admin::{AdminApi, AdminSocket};
use crate::operator::http::{self, Http};
use crate::operator::overview::{GatewayIdentity, Minute, Overview};
use crate::rules::parties::Parties;
use crate::server::connections::Connections;
use crate::server::grpc::Server;
use crate::server::health_service::HealthApi;
use crate::server::link_service::{LinkApi, PartialUploads};
use crate::server::mailbox_service::MailboxApi;
use crate::server::simple_service::SimpleApi;
use crate::tls::trust::CurrentTrust;
use crate::wire::wall_clock::now_ms;

/// Connections that the kernel queues for us until we accept them.
const BACKLOG: u32 = 1024;
/// How long the gateway's own tasks may take to end once nobody is served any more.
const TASKS_END: Duration = Duration::from_secs(2);

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
    pub(crate) server: Server,
    admin: Option<AdminSocket>,
    http: Option<Http>,
    http_addr: Option<SocketAddr>,
    peers: Arc<Peers>,
    reload: Arc<Notify>,
    tasks: TaskTracker,
    draining: CancellationToken,
    grace: Duration,
    #[cfg(test)]
    pub(crate) parts: GatewayParts,
}

/// What tests look at.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct GatewayParts {
    pub(crate) hub: Arc<NewsHub>,
    pub(crate) partials: Arc<PartialUploads>,
    pub(crate) trust: CurrentTrust,
    /// How often the files were read.
    pub(crate) readings: watch::Receiver<u64>,
}

impl Gateway {
    /// Opens the store, starts the forwarders and listens; returns once the gateway serves.
    pub async fn start(settings: Settings, parties: Parties) -> Result<Self, StartError> {
        // Before the store is opened: opening a large one only to find the port in use would be a waste.
        let listeners = Listeners::bind(&settings)?;
        let hub = NewsHub::new(settings.max_waiting, settings.max_subscriptions);
        let opened = engine::open(&settings, listeners.addr(), hub.clone()).await?;
        Self::assemble(settings, parties, hub, opened, listeners).await
    }

    /// Assembles the parts over an open store that reports to `hub`.
    pub(crate) async fn assemble(
        settings: Settings,
        parties: Parties,
        hub: Arc<NewsHub>,
        opened: OpenedStore,
        listeners: Listeners,
    ) -> Result<Self, StartError> {
        let engine = opened.engine.clone();
        let draining = CancellationToken::new();
        let tasks = TaskTracker::new();
        let trust = settings.trust(parties.clone(), 0).map_err(StartError::Tls)?;
        let (sender, trust) = watch::channel(Arc::new(trust));
        let peers = start_deliveries(&settings, &parties, &hub, engine.clone(), trust.clone()).await;
        let reload = Arc::<Notify>::default();
        let reloading = ReloadTask::new(settings.clone(), parties, sender, peers.clone(), reload.clone());
        let refusals = reloading.refusals();
        #[cfg(test)]
        let readings = reloading.readings.subscribe();
        tasks.spawn(reloading.run(draining.clone()));
        let services = Services::new(&settings, &hub, engine.clone(), trust.clone(), draining.clone());
        tasks.spawn(services.link.partials.clone().follow(draining.clone()));
        let connections = Connections::new(settings.limits.clone(), trust.clone(), draining.clone());
        let overview = Arc::new(Overview {
            identity: identity(&settings, &listeners, &opened),
            engine: engine.clone(),
            waiters: hub.waiters.clone(),
            subscriptions: hub.subscriptions.clone(),
            record: hub.record.clone(),
            peers: peers.clone(),
            trust: trust.clone(),
            refusals,
            connections: connections.clone(),
            draining: draining.clone(),
            minute: Minute::default(),
            started: Instant::now(),
            started_ms: now_ms(),
        });
        tasks.spawn(overview.clone().measure());
        #[cfg(test)]
        let parts = GatewayParts { hub, partials: services.link.partials.clone(), trust, readings };
        let (addr, http_addr) = (overview.identity.listen_addr, overview.identity.http_addr);
        let http = listeners.http.map(|listener| http::start(listener, overview.clone(), draining.clone()));
        let Services { simple, mailbox, link, health } = services;
        Ok(Self {
            addr,
            found: opened.found,
            engine,
            admin: admin(&settings, &overview),
            server: Server::start(listeners.grpc, connections, simple, mailbox, link, health),
            http,
            http_addr,
            peers,
            reload,
            tasks,
            draining,
            grace: settings.shutdown_grace,
            #[cfg(test)]
            parts,
        })
    }

    /// Reads the party file and the certificates again, now.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// The address it listens on (with the real port if 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where metrics and the status page are served.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// What was found when the store was opened, in one line for people.
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
                // The store has closed without having failed.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Turns unhealthy, refuses new calls, finishes running ones within the grace time, and syncs for the last time.
    pub async fn shutdown(self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.grace;
        tracing::info!(grace = ?self.grace, "shutting down");
        // One token does it all: health turns NOT_SERVING, new calls are refused, waiting receives are answered, and the
        // listener closes.
        self.draining.cancel();
        self.server.stop(deadline).await;
        if let Some(admin) = self.admin {
            admin.end().await;
        }
        self.peers.end().await;
        self.tasks.close();
        // They end with the token; nothing in the store depends on them.
        if tokio::time::timeout(TASKS_END, self.tasks.wait()).await.is_err() {
            tracing::warn!("a task of the gateway did not end in time");
        }
        let closed = self.engine.close().await;
        if let Some(http) = self.http {
            http.stop().await;
        }
        let stats = self.engine.stats();
        tracing::info!(appends = stats.appends, syncs = stats.syncs, "shut down");
        closed
    }
}

/// The services that answer callers.
struct Services {
    simple: SimpleApi,
    mailbox: MailboxApi,
    link: LinkApi,
    health: HealthApi,
}

impl Services {
    fn new(
        settings: &Settings,
        hub: &NewsHub,
        engine: Arc<dyn Engine>,
        trust: CurrentTrust,
        draining: CancellationToken,
    ) -> Self {
        let health = HealthApi { store: engine.state(), draining: draining.clone() };
        let partials = PartialUploads::new(settings.link_resume, trust.clone());
        let mailbox = Arc::new(Mailbox {
            party: settings.party.clone(),
            trust,
            engine,
            waiters: hub.waiters.clone(),
            record: hub.record.clone(),
            max_message_bytes: settings.max_message_bytes,
            max_stream_bytes: settings.max_stream_bytes,
            uploads: Uploads::new(settings.max_uploads),
            draining,
        });
        let max_age = settings.limits.connection_age;
        Self {
            simple: SimpleApi { mailbox: mailbox.clone(), recv_wait: settings.recv_wait },
            mailbox: MailboxApi {
                mailbox: mailbox.clone(),
                subscriptions: hub.subscriptions.clone(),
                max_age,
            },
            link: LinkApi { mailbox, max_age, partials },
            health,
        }
    }
}

/// Starts the forwarders of all peers.
async fn start_deliveries(
    settings: &Settings,
    parties: &Parties,
    hub: &NewsHub,
    engine: Arc<dyn Engine>,
    trust: CurrentTrust,
) -> Arc<Peers> {
    let others = parties.parties.keys().filter(|party| **party != settings.party);
    let paused = Paused::load(&settings.data_dir, others);
    let told = (hub.hints.clone(), hub.record.clone());
    let peers = Peers::new(settings.party.clone(), in_flight(settings), told, engine, trust, paused);
    let peers = Arc::new(peers);
    peers.follow_pauses(parties).await;
    peers.start(parties);
    peers.tell_of_strangers().await;
    peers
}

/// The sockets on which a gateway listens.
#[derive(Debug)]
pub(crate) struct Listeners {
    grpc: TcpListener,
    http: Option<TcpListener>,
    wanted: SocketAddr,
}

impl Listeners {
    pub(crate) fn bind(settings: &Settings) -> Result<Self, StartError> {
        let grpc = listen("LISTEN_ADDR", settings.listen_addr)?;
        let http = match settings.http_listen_addr.map(|addr| listen("HTTP_LISTEN_ADDR", addr)) {
            None => None,
            Some(Ok(listener)) => Some(listener),
            Some(Err(why)) if settings.http_required => return Err(why),
            // Two gateways on one machine, and nobody asked for two pages: messages matter more.
            Some(Err(why)) => {
                tracing::warn!(%why, "no metrics and no status page");
                None
            }
        };
        Ok(Self { grpc, http, wanted: settings.listen_addr })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.grpc.local_addr().unwrap_or(self.wanted)
    }

    fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

/// How much may be under way to peers at the same time, and the limits of their links.
fn in_flight(settings: &Settings) -> (Window, LinkLimits) {
    let window = Window {
        messages: settings.max_in_flight.max(1),
        bytes: settings.max_in_flight_bytes,
        retry_cap: settings.retry_cap,
    };
    let link = LinkLimits {
        stall: settings.link_stall,
        window: settings.link_window,
        call_bytes: settings.max_message_bytes,
    };
    (window, link)
}

/// Who this gateway is, for the operator.
fn identity(settings: &Settings, listeners: &Listeners, opened: &OpenedStore) -> GatewayIdentity {
    GatewayIdentity {
        party: settings.party.clone(),
        listen_addr: listeners.addr(),
        http_addr: listeners.http_addr(),
        engine: opened.kind,
        place: opened.place.clone(),
        // Whatever displays it adds these words itself.
        accepted_means: opened.accepted_means.trim_start_matches("accepted means: ").to_owned(),
        folder: (opened.kind == "embedded").then(|| settings.data_dir.clone()),
        send_ttl: settings.send_ttl,
    }
}

/// The operator's socket in the data folder. A gateway without one still works.
fn admin(settings: &Settings, overview: &Arc<Overview>) -> Option<AdminSocket> {
    let folder = &settings.data_dir;
    // With Redis nothing else is kept in the folder, so nothing has created it.
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
        // A restart must not wait until old connections have disappeared from the kernel.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| StartError::Listen { setting, addr, source })
}
