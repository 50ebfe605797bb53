//! The gateway that runs on the data folder, if one does: what it says of itself.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::Finding;
use crate::admin_socket::{self, ConnectError};
use crate::proto::admin::{StatusRequest, StatusResponse};

/// Nothing where no gateway runs: that is no mistake, and the address is looked at elsewhere.
pub(super) async fn examine(data_dir: &Path, limit: Duration) -> Option<Vec<Finding>> {
    let mut client = match admin_socket::connect(data_dir).await {
        Ok(client) => client,
        Err(ConnectError::NotRunning { .. }) => return None,
        Err(why) => return Some(vec![Finding::warning(format!("cannot be asked: {why}"), "")]),
    };
    let advice = "look into its log; it may be started again at any moment";
    Some(match timeout(limit, client.status(StatusRequest {})).await {
        Ok(Ok(status)) => findings(&status.into_inner()),
        Ok(Err(status)) => {
            let why =
                format!("cannot say how it is: {:?}: {}", status.code(), status.message().escape_debug());
            vec![Finding::bad(why, advice)]
        }
        Err(_) => vec![Finding::bad(format!("gives no answer within {limit:?}"), advice)],
    })
}

fn findings(status: &StatusResponse) -> Vec<Finding> {
    let mut found = Vec::new();
    let state = format!("{} is {}", status.party.escape_debug(), status.state.escape_debug());
    found.push(match status.state.as_str() {
        "serving" => Finding::good(state),
        "draining" => Finding::warning(format!("{state}: it stops"), ""),
        _ => Finding::bad(
            format!("{state}: {}", status.state_reason.escape_debug()),
            "`petnet status` says more; look at the disk (or Redis) and into the log",
        ),
    });
    for peer in &status.peers {
        let waits = format!("{}: {} pending", peer.party.escape_debug(), peer.pending);
        match peer.state.as_str() {
            "down" => {
                let why = format!("{waits}, it is down: {}", peer.last_error.escape_debug());
                found.push(Finding::warning(
                    why,
                    "attempts go on by themselves; see below what is in the way",
                ));
            }
            "paused" => {
                let resume =
                    format!("`petnet queue resume {}` when it shall go on", peer.party.escape_debug());
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
        found.push(Finding::warning(format!("{dead} dead letters"), "`petnet dead ls` says why"));
    }
    if let Some(damaged) = status.store.as_ref().map(|store| store.damaged).filter(|damaged| *damaged > 0) {
        let what = format!("{damaged} damaged places in its store");
        found.push(Finding::warning(what, "look at the disk; stop the gateway and run `petnet repair`"));
    }
    for certificate in status.certificates.iter().filter(|certificate| certificate.seconds_left <= 0) {
        let what = format!("works with {}, which has expired", certificate.name.escape_debug());
        found.push(Finding::bad(what, "renew it (`petnet certs init --renew`); the gateway takes it up"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
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
        assert!(findings(&well).iter().all(|f| f.level == Level::Good));
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
            ..well
        };
        let found = findings(&ill);
        assert_eq!(found.iter().map(|f| f.level).max(), Some(Level::Bad));
        let all = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in ["a sync failed", "b: 7 pending, it is down", "queue resume c", "2 dead letters"] {
            assert!(all.contains(part), "no {part:?} in:\n{all}");
        }
        assert!(!all.contains("WARN  d") && !all.contains("e: 1"), "{all}");
    }
}
