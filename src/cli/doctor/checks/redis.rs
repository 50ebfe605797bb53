//! Whether Redis can be reached, and what it keeps.

use petnet_storage::redis::{RedisOptions, RedisStatus};

use super::Finding;

pub(super) async fn examine(options: &RedisOptions) -> Vec<Finding> {
    let found = match RedisStatus::read(options).await {
        Ok(found) => found,
        Err(why) => {
            return vec![Finding::bad(
                why.to_string(),
                "check REDIS_URL, and that Redis runs and lets us in",
            )];
        }
    };
    let mut findings = vec![Finding::good(format!("Redis at {}; {}", found.node, found.durability.means))];
    let is_refused = options.strict && !options.allow_volatile;
    for loss in &found.durability.losses {
        let advice = "see docs/redis.md; the gateway refuses to start on it unless REDIS_ALLOW_VOLATILE=1";
        findings.push(if is_refused || (found.durability.evicts.is_some() && !options.allow_volatile) {
            Finding::bad(loss, advice)
        } else {
            Finding::warning(loss, "accepted messages can be lost that way")
        });
    }
    if let Some(migration) = &found.migration {
        findings.push(Finding::bad(
            format!("a migration is {migration}: no gateway starts on this store"),
            "run petnet migrate again, to its end",
        ));
    }
    findings
}
