//! `petnet status`: what a party's store in Redis holds, which gateways work on it, and what "accepted" means there.

use anyhow::Context;
use petnet_storage::PartyId;
use petnet_storage::redis::{GatewayStatus, PeerStatus, RedisStatus};
use serde_json::{Value, json};

use super::local::say;
use super::{Exit, progress};
use crate::config::redis_options;

/// Show a party's store in Redis: its gateways, what waits for whom, and what "accepted" means.
///
/// Asks Redis, not a gateway, and changes nothing; so it works also when no gateway runs. Certificates and permissions are
/// those of a gateway: `REDIS_PEM_PATH`, `REDIS_TIMEOUT`. For a data folder there is `petnet verify`, with its gateway stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet status --party party_a --redis-url redis://localhost:6379

Exit codes:
  0  asked and shown
  1  Redis could not be asked, or no gateway of the party is alive
  2  wrong arguments")]
pub(crate) struct Status {
    /// Whose store it is
    #[arg(long, env = "PARTY", value_name = "ID")]
    party: PartyId,
    /// Where it is, as the gateways have it in `REDIS_URL`
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: String,
    /// Print one JSON object instead of text; sizes are bytes, times seconds
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let options = match redis_options(&self.redis_url, &self.party) {
            Ok(options) => options,
            Err(why) => {
                eprintln!("petnet status: {why}");
                return Ok(Exit::WrongSettings);
            }
        };
        let found = RedisStatus::read(&options).await.context("nothing can be shown")?;
        say(&if self.json { to_json(&found).to_string() } else { text(&self.party, &found) });
        Ok(if found.gateways.iter().any(|gateway| gateway.is_live) { Exit::Ok } else { Exit::Failed })
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
