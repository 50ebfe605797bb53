//! Which engine keeps the messages: the embedded one, or Redis where `REDIS_URL` names one.

use std::net::SocketAddr;
use std::sync::Arc;

use petnet_storage::{Engine, Observer, OpenError, Store, StoreOptions};

use crate::config::Settings;

/// An open store.
#[derive(Debug)]
pub(crate) struct OpenedStore {
    pub(crate) engine: Arc<dyn Engine>,
    /// What was found, in one line.
    pub(crate) found: String,
    /// `embedded` or `redis`.
    pub(crate) kind: &'static str,
    /// The data folder, or the address of Redis.
    pub(crate) place: String,
    /// What "accepted" means with this store.
    pub(crate) accepted_means: String,
}

/// Opens the store of a gateway that listens on `addr`.
pub(crate) async fn open(
    settings: &Settings,
    addr: SocketAddr,
    observer: Arc<dyn Observer>,
) -> Result<OpenedStore, OpenError> {
    #[cfg(not(feature = "redis"))]
    let _ = addr;
    #[cfg(feature = "redis")]
    if let Some(options) = redis(settings, addr) {
        let url = options.url.to_string();
        let (engine, report) = petnet_storage::redis::RedisStore::open(options, observer).await?;
        for loss in &report.durability.losses {
            tracing::warn!(%url, "accepted messages can be lost: {loss}");
        }
        return Ok(OpenedStore {
            engine,
            found: report.to_string(),
            kind: "redis",
            place: report.node.clone(),
            accepted_means: report.durability.to_string(),
        });
    }
    let options = StoreOptions {
        message_ttl: settings.message_ttl,
        unread_ttl: settings.unread_ttl,
        send_ttl: settings.send_ttl,
        max_bytes: settings.store_max_bytes,
        dead_letter_bytes: settings.dead_letter_max_bytes,
        id_reuse: settings.id_reuse,
        ..StoreOptions::new(&settings.data_dir)
    };
    let opening = tokio::task::spawn_blocking(move || Store::open(options, observer));
    let (engine, report) = match opening.await {
        Ok(opened) => opened?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let place = settings.data_dir.display().to_string();
    Ok(OpenedStore {
        engine,
        found: format!("data folder {place}, found {report}"),
        kind: "embedded",
        place,
        accepted_means: "accepted means: on this disk, synced, whatever is killed or loses power".into(),
    })
}

/// Options for the Redis engine, if it is to be used.
#[cfg(feature = "redis")]
pub(crate) fn redis(settings: &Settings, addr: SocketAddr) -> Option<petnet_storage::redis::RedisOptions> {
    let options = settings.redis.clone()?;
    Some(petnet_storage::redis::RedisOptions {
        label: format!("{addr} on {}", host()),
        message_ttl: settings.message_ttl,
        unread_ttl: settings.unread_ttl,
        send_ttl: settings.send_ttl,
        max_bytes: settings.store_max_bytes,
        dead_letter_bytes: settings.dead_letter_max_bytes,
        id_reuse: settings.id_reuse,
        ..options
    })
}

#[cfg(feature = "redis")]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
