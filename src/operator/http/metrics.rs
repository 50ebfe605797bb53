//! `/metrics`: all numbers of the gateway, as OpenMetrics text.
//!
//! Nothing is registered anywhere: the numbers live where they are counted, and a scrape writes down what it finds.
//! Invariant: labels are parties, names of certificates and fixed words; never a message id, and nothing that a caller
//! chose, so that the party file bounds the number of series. docs/operations.md names every metric.

mod writer;

use std::fmt::Error;
use std::sync::Arc;

use petnet_storage::StoreStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::{Registry, Unit};

use self::writer::{MetricsWriter, label};
use super::StatusSource;
use crate::operator::process::ProcessUsage;
use crate::proto::admin::{Peer, StatusResponse};

/// The values of `state` of [`StatusResponse`].
const STATES: [&str; 8] =
    ["serving", "full", "stalled", "refusing", "unavailable", "poisoned", "closed", "draining"];
/// The values of `state` of [`Peer`].
const PEER_STATES: [&str; 6] = ["idle", "delivering", "down", "paused", "unknown", "elsewhere"];

/// Format in which metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    OpenMetrics,
    /// The older text format; the names are equal.
    Prometheus,
}

impl MetricsFormat {
    /// The format that the scraper accepts: OpenMetrics, unless it asks for plain text only.
    pub(super) fn wanted(accept: &str) -> Self {
        let plain_alone = accept.contains("text/plain") && !accept.contains("application/openmetrics-text");
        if plain_alone { Self::Prometheus } else { Self::OpenMetrics }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// All metrics as they are now.
pub(super) async fn write(source: Arc<dyn StatusSource>, format: MetricsFormat) -> Result<String, Error> {
    let status = source.status().await;
    let process = tokio::task::spawn_blocking(ProcessUsage::read).await.unwrap_or_default();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { stats: source.stats(), source, status, process }));
    let mut text = String::new();
    match format {
        MetricsFormat::OpenMetrics => text::encode(&mut text, &registry)?,
        MetricsFormat::Prometheus => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

/// What one scrape found.
#[derive(Debug)]
struct Scrape {
    source: Arc<dyn StatusSource>,
    status: StatusResponse,
    stats: StoreStats,
    process: ProcessUsage,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut writer = MetricsWriter(encoder);
        self.gateway(&mut writer)?;
        self.messages(&mut writer)?;
        self.peers(&mut writer)?;
        self.deliveries(&mut writer)?;
        self.store(&mut writer)?;
        self.process(&mut writer)
    }
}

impl Scrape {
    fn gateway(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let Self { source, status, .. } = self;
        w.info(
            "petnet_build",
            "Which gateway this is",
            &[label("version", &status.version), label("party", &status.party)],
        )?;
        let serving = source.is_serving() && status.state != "draining";
        w.gauge(
            "petnet_serving",
            "1 while it serves: messages are handed out and delivered, and accepted unless it is full",
            None,
            f64::from(u8::from(serving)),
        )?;
        w.states("petnet_state", "1 for the state that the gateway is in", &[], &STATES, &status.state)?;
        w.gauge("petnet_uptime", "Since the start", Some(&Unit::Seconds), status.uptime_seconds as f64)?;
        if let Some(ttl) = source.send_ttl() {
            let help = "SEND_TTL: how long a message may be pending; absent without a limit";
            w.gauge("petnet_send_ttl", help, Some(&Unit::Seconds), ttl.as_secs_f64())?;
        }
        let expiries = status.certificates.iter().map(|certificate| {
            (vec![label("certificate", &certificate.name)], certificate.expires_ms as f64 / 1e3)
        });
        let help = "When a certificate of ours, or a root of a party, is over, in seconds since the epoch";
        w.gauges("petnet_certificate_expiry_timestamp", help, Some(&Unit::Seconds), expiries)?;
        let refused = |what: &&str| status.refused_reloads.iter().any(|refused| refused.what == *what);
        let refused = crate::operator::refused_files::WHAT
            .iter()
            .map(|what| (vec![label("what", what)], f64::from(u8::from(refused(what)))));
        let help = "1 while what lies on the disk is refused and the former version is in force";
        w.gauges("petnet_reload_refused", help, None, refused)?;
        let connections = status.process.as_ref().map_or(0, |process| process.connections);
        w.gauge("petnet_connections", "Connections to LISTEN_ADDR", None, connections as f64)?;
        w.counter("petnet_log_lines_dropped", "Log lines lost to a slow stderr", None, source.dropped_lines())
    }

    fn messages(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let Self { source, status, stats, .. } = self;
        let meters = source.meters();
        w.amount("petnet_accepted", "of clients that are durable here", &meters.accepted)?;
        w.amount("petnet_received", "handed to clients, each as often as it was", &meters.received)?;
        w.counter(
            "petnet_released_messages",
            "Messages that clients need no more",
            None,
            meters.released.load(RELAXED),
        )?;
        w.counter(
            "petnet_dropped_messages",
            "Messages that the operator ended",
            None,
            meters.dropped.load(RELAXED),
        )?;
        w.counter(
            "petnet_expired_messages",
            "Messages of the mailbox whose time was over",
            None,
            stats.expired,
        )?;
        let help = "Receives that name no sender and were handed another sender's message than the one before under the id";
        w.counter("petnet_sender_changes", help, None, meters.sender_changes.load(RELAXED))?;
        let deaths = meters.deaths().map(|(reason, count)| (vec![label("reason", reason)], count));
        w.counters("petnet_dead_messages", "Messages that became dead letters", None, deaths)?;
        let refusals = meters.refusals().map(|(reason, count)| (vec![label("reason", reason)], count));
        w.counters(
            "petnet_refused_calls",
            "Calls of clients and deliveries of peers that were refused",
            None,
            refusals,
        )?;
        let help = "From a send of a client to its acceptance";
        w.histogram("petnet_accept", help, Some(&Unit::Seconds), &meters.accept_seconds.spread())?;
        let letters = status.dead_letters.iter();
        let letters = letters.map(|dead| (vec![label("reason", &dead.reason)], dead.messages as f64));
        w.gauges("petnet_dead_letters", "Dead letters that are kept", None, letters)?;
        let mailbox = status.mailbox.unwrap_or_default();
        w.gauge("petnet_mailbox_messages", "Messages in the mailbox", None, mailbox.messages as f64)?;
        w.gauge("petnet_waiting_receives", "Receives that wait", None, mailbox.waiting as f64)?;
        w.gauge("petnet_subscriptions", "Subscriptions of streams", None, mailbox.subscriptions as f64)
    }

    fn peers(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let peers = &self.status.peers;
        let each = |value: fn(&Peer) -> Option<f64>| {
            peers.iter().filter_map(move |peer| Some((vec![label("peer", &peer.party)], value(peer)?)))
        };
        w.gauges(
            "petnet_pending_messages",
            "Accepted for a peer and not settled",
            None,
            each(|p| Some(p.pending as f64)),
        )?;
        let help = "Payload of pending messages";
        w.gauges("petnet_pending", help, Some(&Unit::Bytes), each(|p| Some(p.pending_bytes as f64)))?;
        let help = "Service time since the acceptance of a peer's oldest pending message; 0 without any";
        let oldest = each(|p| Some(p.oldest_seconds.unwrap_or(0) as f64));
        w.gauges("petnet_pending_oldest", help, Some(&Unit::Seconds), oldest)?;
        w.gauges(
            "petnet_in_flight_messages",
            "Deliveries under way",
            None,
            each(|p| Some(p.in_flight as f64)),
        )?;
        let help = "For how long a peer has been down; 0 while it is not";
        let down = each(|p| Some(p.down_seconds.unwrap_or(0) as f64));
        w.gauges("petnet_peer_down", help, Some(&Unit::Seconds), down)?;
        let help = "When a peer accepted something last, in seconds since the epoch; absent before";
        let last = each(|p| Some(p.last_delivery_ms? as f64 / 1e3));
        w.gauges("petnet_last_delivery_timestamp", help, Some(&Unit::Seconds), last)?;
        let states = peers.iter().map(|peer| (vec![label("peer", &peer.party)], peer.state.as_str()));
        w.state_sets("petnet_peer_state", "1 for the state that a peer is in", &PEER_STATES, states)
    }

    fn deliveries(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let peers = self.source.meters().peers();
        let each = |value: fn(&crate::record::meters::PeerMeters) -> u64| {
            peers.iter().map(move |(peer, meters)| (vec![label("peer", peer.as_str())], value(meters)))
        };
        let bytes = Some(&Unit::Bytes);
        w.counters(
            "petnet_delivered_messages",
            "Messages that a peer accepted",
            None,
            each(|m| m.delivered.messages()),
        )?;
        w.counters(
            "petnet_delivered",
            "Payload of delivered messages",
            bytes,
            each(|m| m.delivered.bytes()),
        )?;
        let help = "Messages of a peer that are durable here, repetitions not counted";
        w.counters("petnet_arrived_messages", help, None, each(|m| m.arrived.messages()))?;
        w.counters("petnet_arrived", "Payload of arrived messages", bytes, each(|m| m.arrived.bytes()))?;
        let help = "Attempts at a delivery that failed and are made again";
        w.counters("petnet_failed_attempts", help, None, each(|m| m.failed_attempts.load(RELAXED)))?;
        let help = "Deliveries of peers that had arrived before and changed nothing";
        w.counter("petnet_repeated_deliveries", help, None, self.stats.repeated)
    }

    fn store(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let Self { status, stats, .. } = self;
        let bytes = Some(&Unit::Bytes);
        w.gauge("petnet_store_disk", "What the store's files take", bytes, stats.disk_bytes as f64)?;
        w.gauge("petnet_store_used", "What messages and records take", bytes, stats.used_bytes as f64)?;
        let help = "What they may take, by quota and disk: at it the store is full; 0: not known";
        w.gauge("petnet_store_limit", help, bytes, stats.limit_bytes as f64)?;
        let help = "STORE_MAX_BYTES; 0: what the disk has";
        w.gauge("petnet_store_quota", help, bytes, stats.quota_bytes as f64)?;
        if let Some(store) = status.store.as_ref().filter(|store| store.disk_total_bytes > 0) {
            let help = "Size of the disk that the store is on; absent with Redis";
            w.gauge("petnet_store_disk_size", help, bytes, store.disk_total_bytes as f64)?;
            let help = "Free on the disk that the store is on; absent with Redis";
            w.gauge("petnet_store_disk_free", help, bytes, store.disk_free_bytes as f64)?;
        }
        w.gauge("petnet_store_segments", "Log files in use", None, stats.segments as f64)?;
        w.gauge(
            "petnet_store_spare_segments",
            "Log files kept to be used again",
            None,
            stats.spare_segments as f64,
        )?;
        let help = "What messages that have ended still take";
        w.gauge("petnet_store_reclaimable", help, bytes, stats.reclaimable_bytes as f64)?;
        w.gauge(
            "petnet_store_damaged",
            "Damaged places set aside, found since the start",
            None,
            stats.damaged as f64,
        )?;
        w.counter("petnet_store_appends", "Records written", None, stats.appends)?;
        w.counter("petnet_store_syncs", "Syncs of the log", None, stats.syncs)?;
        let help = "How long a sync of the log took; nothing with Redis";
        w.histogram("petnet_store_sync", help, Some(&Unit::Seconds), &stats.sync_seconds)?;
        let help = "Records that a sync covered; nothing with Redis";
        w.histogram("petnet_store_sync_records", help, None, &stats.sync_records)?;
        let help = "Entries of the index held in memory";
        w.gauge("petnet_store_index_entries", help, None, stats.index_in_memory as f64)?;
        let help = "Time on which messages age: how long the gateway was up, over all its starts";
        w.counter("petnet_service", help, Some(&Unit::Seconds), stats.service_seconds)
    }

    /// Metrics of the process, under the names that every Prometheus client uses.
    fn process(&self, w: &mut MetricsWriter) -> Result<(), Error> {
        let process = &self.process;
        let (bytes, seconds) = (Some(&Unit::Bytes), Some(&Unit::Seconds));
        w.gauge("process_resident_memory", "Memory of the process", bytes, process.resident_bytes as f64)?;
        w.gauge(
            "process_virtual_memory",
            "Address space of the process",
            bytes,
            process.virtual_bytes as f64,
        )?;
        w.gauge("process_open_fds", "Open file descriptors", None, process.open_files as f64)?;
        w.gauge(
            "process_max_fds",
            "File descriptors that may be open",
            None,
            process.open_files_limit as f64,
        )?;
        w.gauge("process_threads", "Threads of the process", None, process.threads as f64)?;
        w.counter("process_cpu", "CPU time, user and system", seconds, process.cpu_seconds)?;
        let help = "When the process began, in seconds since the epoch";
        w.gauge("process_start_time", help, seconds, process.start_seconds)
    }
}

/// The numbers of different counters need not belong to the same moment.
const RELAXED: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;
