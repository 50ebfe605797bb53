//! The lists of the mailbox by sender and beginning of ids: adds what gateways of an older version left out.

use crate::redis::connection::fault::Fault;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::{Session, Way};

/// Messages listed per call: Redis serves others between two calls.
const AT_ONCE: usize = 200;
/// Calls after one heartbeat. So a million messages of an older version are listed in seven minutes, using two hundredths of
/// Redis's time; until then they are looked at one by one.
const CALLS: usize = 25;

/// Lists some of the messages that are not listed yet.
pub(crate) async fn complete(session: &Session) -> Result<(), Fault> {
    for _ in 0..CALLS {
        let more: u8 = session
            .script(Way::Write, &SCRIPTS.names, |call| {
                call.arg(AT_ONCE);
            })
            .await?;
        if more == 0 {
            break;
        }
    }
    Ok(())
}
