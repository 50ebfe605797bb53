//! Which engine keeps the messages: the embedded one, or Redis where `REDIS_URL` names one.

use std::net::SocketAddr;
use std::sync::Arc;

use petnet_storage::{Engine, Observer, OpenError, Store, StoreOptions};

use crate::config::Settings;

/// Opens the store of a gateway that listens on `addr`; gives it with the line that says what was found.
pub(crate) async fn open(
    settings: &Settings,
    addr: SocketAddr,
    observer: Arc<dyn Observer>,
) -> Result<(Arc<dyn Engine>, String), OpenError> {
    #[cfg(not(feature = "redis"))]
    let _ = addr;
    #[cfg(feature = "redis")]
    if let Some(options) = redis(settings, addr) {
        let url = options.url.to_string();
        let (engine, report) = petnet_storage::redis::RedisStore::open(options, observer).await?;
        for loss in &report.durability.losses {
            tracing::warn!(%url, "accepted messages can be lost: {loss}");
        }
        return Ok((engine, report.to_string()));
    }
    let options = StoreOptions {
        message_ttl: settings.message_ttl,
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
    Ok((engine, format!("data folder {}, found {report}", settings.data_dir.display())))
}

/// Options of the Redis engine, if it is to be used.
#[cfg(feature = "redis")]
pub(crate) fn redis(settings: &Settings, addr: SocketAddr) -> Option<petnet_storage::redis::RedisOptions> {
    let options = settings.redis.clone()?;
    Some(petnet_storage::redis::RedisOptions {
        label: format!("{addr} on {}", host()),
        message_ttl: settings.message_ttl,
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
