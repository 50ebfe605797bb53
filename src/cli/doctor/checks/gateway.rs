//! The gateway that runs on the data folder, if there is one: what it reports about itself.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::Finding;
use crate::proto::admin::{RefusedReload, StatusRequest, StatusResponse};
use crate::rules::text::{count, many, one_line};
use crate::wire::admin_socket::{self, ConnectError};

/// A file on the disk that the gateway refused: it goes on with the former one.
fn refusal(refused: &RefusedReload) -> Finding {
    let (what, advice) = match refused.what.as_str() {
        "party_file" => ("the party file", "mend the file; the gateway takes it up by itself"),
        "certificates" => {
            ("our certificate", "mend it, or start the gateway again; else it takes up a good one by itself")
        }
        other => (other, "mend it; the gateway takes it up by itself"),
    };
    let (what, why) = (one_line(what), one_line(&refused.why));
    Finding::bad(format!("REFUSED: {what} on the disk; the gateway works by the former one: {why}"), advice)
}

/// Whether a gateway that runs on the folder refuses its party file or certificate. Empty if none runs or it does not
/// answer.
pub(crate) async fn refusals(data_dir: &Path, limit: Duration) -> Vec<Finding> {
    let Ok(mut client) = admin_socket::connect(data_dir).await else { return Vec::new() };
    match timeout(limit, client.status(StatusRequest {})).await {
        Ok(Ok(status)) => status.into_inner().refused_reloads.iter().map(refusal).collect(),
        _ => Vec::new(),
    }
}

/// What the gateway on the folder reports. `None` if no gateway runs: that is no mistake, and the address is checked
/// elsewhere.
pub(super) async fn examine(data_dir: &Path, limit: Duration) -> Option<Vec<Finding>> {
    let mut client = match admin_socket::connect(data_dir).await {
        Ok(client) => client,
        Err(ConnectError::NotRunning { .. } | ConnectError::Starting { .. }) => return None,
        Err(why) => return Some(vec![Finding::warning(format!("cannot be asked: {why}"), "")]),
    };
    let advice = "look into its log; it may be started again at any moment";
    Some(match timeout(limit, client.status(StatusRequest {})).await {
        Ok(Ok(status)) => findings(&status.into_inner()),
        Ok(Err(status)) => {
            let why = format!("cannot say how it is: {:?}: {}", status.code(), one_line(status.message()));
            vec![Finding::bad(why, advice)]
        }
        Err(_) => vec![Finding::bad(format!("gives no answer within {limit:?}"), advice)],
    })
}

fn findings(status: &StatusResponse) -> Vec<Finding> {
    let mut found = Vec::new();
    let state = format!("{} is {}", one_line(&status.party), one_line(&status.state));
    found.push(match status.state.as_str() {
        "serving" => Finding::good(state),
        "full" => Finding::warning(
            format!("{state}: {}", one_line(&status.state_reason)),
            "it goes on with all that is there; new messages are taken again when there is room",
        ),
        "draining" => Finding::warning(format!("{state}: it stops"), ""),
        _ => Finding::bad(
            format!("{state}: {}", one_line(&status.state_reason)),
            "`petnet status` says more; look at the disk (or Redis) and into the log",
        ),
    });
    found.extend(status.refused_reloads.iter().map(refusal));
    for peer in &status.peers {
        let waits = format!("{}: {} pending", one_line(&peer.party), count(peer.pending));
        match peer.state.as_str() {
            "down" => {
                let why = format!("{waits}, it is down: {}", one_line(&peer.last_error));
                found.push(Finding::warning(
                    why,
                    "attempts go on by themselves; see below what is in the way",
                ));
            }
            "paused" => {
                let resume = format!("`petnet queue resume {}` when it shall go on", one_line(&peer.party));
                found.push(Finding::warning(format!("{waits}, it is paused"), resume));
            }
            "unknown" if peer.pending > 0 => found.push(Finding::warning(
                format!("{waits}, it is not in the party file"),
                "add it again, or drop them (`petnet queue drop`)",
            )),
            _ => {}
        }
    }
    let dead: u64 = status.dead_letters.iter().map(|of| of.messages).sum();
    if dead > 0 {
        found.push(Finding::warning(many(dead, "dead letter", "dead letters"), "`petnet dead ls` says why"));
    }
    if let Some(damaged) = status.store.as_ref().map(|store| store.damaged).filter(|damaged| *damaged > 0) {
        let what = format!("{} in its store", many(damaged, "damaged place", "damaged places"));
        found.push(Finding::warning(what, "look at the disk; stop the gateway and run `petnet repair`"));
    }
    for certificate in status.certificates.iter().filter(|certificate| certificate.seconds_left <= 0) {
        let what = format!("works with {}, which has expired", one_line(&certificate.name));
        found.push(Finding::bad(what, "renew it (`petnet certs init --renew`); the gateway takes it up"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::checks::Severity;
    use crate::proto::admin::{DeadLetters, Peer};

    #[test]
    fn what_a_running_gateway_suffers_from_is_told() {
        let peer = |party: &str, state: &str, pending| Peer {
            party: party.into(),
            state: state.into(),
            pending,
            ..Peer::default()
        };
        let well = StatusResponse { party: "a".into(), state: "serving".into(), ..StatusResponse::default() };
        assert!(findings(&well).iter().all(|f| f.level == Severity::Good));
        let ill = StatusResponse {
            state: "poisoned".into(),
            state_reason: "a sync failed".into(),
            peers: vec![
                peer("b", "down", 7),
                peer("c", "paused", 0),
                peer("d", "unknown", 0),
                peer("e", "idle", 1),
            ],
            dead_letters: vec![DeadLetters { reason: "expired".into(), messages: 2 }],
            refused_reloads: vec![RefusedReload {
                what: "party_file".into(),
                why: "party_x: \"url\": expected host:port".into(),
                since_ms: 1,
            }],
            ..well
        };
        let found = findings(&ill);
        assert_eq!(found.iter().map(|f| f.level).max(), Some(Severity::Bad));
        let all = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in [
            "a sync failed",
            "REFUSED: the party file on the disk; the gateway works by the former one: party_x: \"url\": expected host:port",
            "b: 7 pending, it is down",
            "queue resume c",
            "2 dead letters",
        ] {
            assert!(all.contains(part), "no {part:?} in:\n{all}");
        }
        assert!(!all.contains("WARN  d") && !all.contains("e: 1"), "{all}");
        let one = StatusResponse {
            dead_letters: vec![DeadLetters { reason: "expired".into(), messages: 1 }],
            ..StatusResponse::default()
        };
        let all = findings(&one).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(all.contains("1 dead letter\n"), "{all}");
    }
}
