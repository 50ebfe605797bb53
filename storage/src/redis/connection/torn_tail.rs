//! The end of an append-only file that a crash has torn.
//!
//! Redis writes what a script does as one transaction. A crash may cut it off in the middle; the next start leaves it out, and
//! cuts the file after the last complete command instead of before the transaction (as of Redis 7 and 8; Valkey fixed it in its
//! pull request 4342). What is written then stands behind an open transaction, and the start after that carries out both: parts
//! of a script return, such as the first half of a replacement, which ends a message and has not added the other. So the file is
//! rewritten from memory, which contains none of it, before a gateway writes anything to a server process for the first time.
//!
//! From Redis 7 on, what is written in the meantime goes to a separate file. If Redis is killed before it has rewritten, its
//! next start says that a truncated file is not the last, has mended it by then, and the start after that succeeds.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, timeout};

use crate::redis::connection::connect::NoSession;
use crate::redis::connection::durability::ServerFacts;
use crate::redis::connection::fault::said;
use crate::redis::connection::url::Node;

/// How often to check whether the rewriting has begun, if Redis does not begin it at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The server process, and the history of its data: a gateway starts over with each.
pub(crate) fn epoch(facts: &ServerFacts) -> String {
    let of = |name: &str| facts.info.get(name).map_or("", String::as_str);
    format!("{}:{}", of("run_id"), of("master_replid"))
}

/// Whether no gateway has yet worked with this process, which would have had its file rewritten, and it has not been rewritten
/// otherwise.
fn may_be_torn(facts: &ServerFacts, known_epoch: Option<&str>) -> bool {
    let is = |name: &str, value: &str| facts.info.get(name).is_some_and(|found| found == value);
    let was_rewritten =
        is("aof_rewrite_in_progress", "1") || facts.info.get("aof_rewrites").is_some_and(|n| n != "0");
    is("aof_enabled", "1") && !was_rewritten && known_epoch != Some(&epoch(facts))
}

/// Has the append-only file of a server process rewritten, before the first write to it. Returns once that has begun: while a
/// snapshot is being saved or a replica filled, Redis puts it off. `prefix`: the beginning of the party's keys.
pub(crate) async fn cut_off(
    control: &mut MultiplexedConnection,
    node: &Node,
    facts: &ServerFacts,
    prefix: &str,
    limit: Duration,
) -> Result<(), NoSession> {
    let mut ask = redis::cmd("HGET");
    ask.arg(format!("{prefix}state")).arg("epoch");
    // Without an answer the session does not begin either.
    let known = timeout(limit, ask.query_async::<Option<String>>(control)).await;
    let Ok(Ok(known)) = known else { return Ok(()) };
    if !may_be_torn(facts, known.as_deref()) {
        return Ok(());
    }
    let why = match timeout(limit, redis::cmd("BGREWRITEAOF").query_async::<String>(control)).await {
        Ok(Ok(_)) => return begun(control, node, limit).await,
        Ok(Err(error)) => said(&error),
        Err(_) => format!("no answer within {limit:?}"),
    };
    // If it is already in progress, another gateway was first.
    if !why.contains("already in progress") {
        tracing::warn!(
            %node, why,
            "the append-only file of Redis cannot be rewritten; if a crash of Redis tore its end, the next start of Redis may bring parts of a write back. Allow BGREWRITEAOF, or run it after each crash of Redis"
        );
    }
    Ok(())
}

/// Waits until the requested rewriting has begun. It begins when Redis's other background work has ended.
async fn begun(control: &mut MultiplexedConnection, node: &Node, limit: Duration) -> Result<(), NoSession> {
    let deadline = Instant::now() + limit;
    loop {
        let mut info = redis::cmd("INFO");
        info.arg("persistence");
        let text = timeout(limit, info.query_async::<String>(control)).await;
        if let Ok(Ok(text)) = text
            && !text.lines().any(|line| line.trim() == "aof_rewrite_scheduled:1")
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(NoSession::Passing(format!(
                "{node} rewrites its append-only file, whose end a crash may have torn, when it has saved a snapshot or filled a replica; until then nothing is written to it"
            )));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(info: &[(&str, &str)]) -> ServerFacts {
        let info = info.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ServerFacts { info: info.collect(), ..ServerFacts::default() }
    }

    #[test]
    fn a_file_is_rewritten_once_for_each_server_process() {
        let fresh = [("run_id", "r"), ("master_replid", "m"), ("aof_enabled", "1"), ("aof_rewrites", "0")];
        assert!(may_be_torn(&facts(&fresh), None));
        assert!(may_be_torn(&facts(&fresh), Some("before:m")));
        assert!(!may_be_torn(&facts(&fresh), Some("r:m")), "a gateway has begun with it");
        let with = |name, value| {
            let kept = fresh.iter().copied().filter(|(known, _)| *known != name);
            facts(&kept.chain([(name, value)]).collect::<Vec<_>>())
        };
        assert!(!may_be_torn(&with("aof_rewrites", "1"), None), "somebody had it rewritten");
        assert!(!may_be_torn(&with("aof_rewrite_in_progress", "1"), None));
        assert!(!may_be_torn(&with("aof_enabled", "0"), None), "there is none");
    }
}
