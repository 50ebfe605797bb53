//! `petnet status --redis-url`: what a party's store in Redis holds, which gateways work on it, and what "accepted" means
//! there. Asks Redis, not a gateway, and changes nothing.

use anyhow::Context;
use petnet_storage::PartyId;
use petnet_storage::redis::{GatewayStatus, PeerStatus, RedisStatus};
use serde_json::{Value, json};

use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::config::redis_options;

/// Which store. Certificates and permissions are those of a gateway: `REDIS_PEM_PATH`, `REDIS_TIMEOUT`.
#[derive(Debug, clap::Args)]
pub(crate) struct RedisChoice {
    /// Whose store in Redis it is; needed with --redis-url
    #[arg(long, env = "PARTY", value_name = "ID")]
    party: Option<PartyId>,
    /// Ask this Redis, as the gateways have it in `REDIS_URL`, instead of a gateway
    #[arg(long = "redis-url", env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
}

impl RedisChoice {
    pub(crate) async fn look(&self, url: &str, json: bool) -> anyhow::Result<(String, Exit)> {
        let wrong = |why: &str| {
            complain!("petnet status: {why}");
            Ok((String::new(), Exit::WrongSettings))
        };
        let Some(party) = &self.party else {
            return wrong(
                "REDIS_URL (--redis-url) is set, so Redis is asked; whose store it is says --party or PARTY. To ask a gateway, give --data-dir",
            );
        };
        let options = match redis_options(url, party) {
            Ok(options) => options,
            Err(why) => return wrong(&why),
        };
        let found = RedisStatus::read(&options).await.context("nothing can be shown")?;
        let shown = if json { to_json(&found).to_string() } else { text(party, &found) };
        let is_live = found.gateways.iter().any(|gateway| gateway.is_live);
        Ok((shown, if is_live { Exit::Ok } else { Exit::Failed }))
    }
}

fn text(party: &PartyId, found: &RedisStatus) -> String {
    let mut lines = vec![format!("{party} in Redis at {}", found.node), found.durability.means.clone()];
    lines.extend(found.durability.losses.iter().map(|loss| format!("  BUT: {loss}")));
    if let Some(migration) = &found.migration {
        lines.push(format!("A migration is {migration}: no gateway works on this store."));
    }
    lines.push(format!("\n{:<40} {:<14} delivers to", "gateway", "heard of"));
    if found.gateways.is_empty() {
        lines.push("(none)".into());
    }
    lines.extend(found.gateways.iter().map(gateway));
    lines.push(format!("\n{:<24} {:>9} {:>10} {:>12}  delivered by", "peer", "pending", "size", "oldest"));
    if found.peers.is_empty() {
        lines.push("(none)".into());
    }
    lines.extend(found.peers.iter().map(peer));
    lines.push(format!("\nmailbox       {}", found.mailbox));
    lines.push(format!("dead letters  {}, {}", found.dead_letters, progress::bytes(found.dead_letter_bytes)));
    lines.push(format!("used          {}", progress::bytes(found.used_bytes)));
    lines.join("\n")
}

fn gateway(of: &GatewayStatus) -> String {
    let heard = if of.is_live {
        format!("{} s ago", of.silent.as_secs())
    } else {
        format!("GONE {} s", of.silent.as_secs())
    };
    format!("{:<40} {heard:<14} {}", of.label, of.delivers_to.join(", "))
}

fn peer(of: &PeerStatus) -> String {
    let oldest = of.oldest.map(|age| format!("{age} s")).unwrap_or_default();
    let by = of.gateway.as_deref().unwrap_or("nobody");
    format!("{:<24} {:>9} {:>10} {oldest:>12}  {by}", of.peer, of.messages, progress::bytes(of.bytes))
}

fn to_json(found: &RedisStatus) -> Value {
    let gateway = |g: &GatewayStatus| json!({"gateway": g.label, "live": g.is_live, "silent_seconds": g.silent.as_secs(), "delivers_to": g.delivers_to});
    let peer = |p: &PeerStatus| {
        json!({
            "peer": p.peer, "pending": p.messages, "bytes": p.bytes, "oldest_seconds": p.oldest, "delivered_by": p.gateway,
        })
    };
    json!({
        "redis": found.node,
        "accepted_means": found.durability.means,
        "losses": found.durability.losses,
        "migration": found.migration,
        "gateways": found.gateways.iter().map(gateway).collect::<Vec<_>>(),
        "peers": found.peers.iter().map(peer).collect::<Vec<_>>(),
        "mailbox": found.mailbox,
        "dead_letters": found.dead_letters,
        "dead_letter_bytes": found.dead_letter_bytes,
        "used_bytes": found.used_bytes,
    })
}
