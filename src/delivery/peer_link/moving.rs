//! Waiting for something on a connection for as long as anything moves there, and no longer.

use std::time::Duration;

use crate::tls::counted::BytesMoved;

/// How often the connection is looked at within one `LINK_STALL`.
const LOOKS: u32 = 4;
/// Fewer bytes than this within `LINK_STALL` are no progress: keepalive alone causes some.
const NO_PROGRESS: u64 = 1024;

/// Resolves with `work`, or with `None` if less than a kilobyte has crossed the connection for `stall`.
pub(super) async fn while_moving<T>(
    moved: &BytesMoved,
    stall: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let (mut before, mut quiet) = (moved.bytes(), 0);
    loop {
        if let Ok(done) = tokio::time::timeout(stall / LOOKS, &mut work).await {
            return Some(done);
        }
        let now = moved.bytes();
        if now - before >= NO_PROGRESS {
            (before, quiet) = (now, 0);
            continue;
        }
        quiet += 1;
        if quiet >= LOOKS {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for_and_what_does_not_is_not() {
        let moved = BytesMoved::default();
        let start = Instant::now();
        assert_eq!(while_moving(&moved, STALL, std::future::pending::<()>()).await, None);
        assert_eq!(start.elapsed(), STALL);
        // Ten minutes at 40 bytes a second count as progress; an occasional keepalive does not.
        let trickle = |bytes: usize, every: Duration| {
            let moved = moved.clone();
            async move {
                loop {
                    sleep(every).await;
                    moved.add(bytes);
                }
            }
        };
        let slow = while_moving(&moved, STALL, sleep(Duration::from_mins(10)));
        tokio::select! {
            done = slow => assert!(done.is_some()),
            () = trickle(40, Duration::from_secs(1)) => {}
        }
        let start = Instant::now();
        let stuck = while_moving(&moved, STALL, std::future::pending::<()>());
        tokio::select! {
            done = stuck => assert!(done.is_none() && start.elapsed() <= 2 * STALL),
            () = trickle(17, Duration::from_secs(20)) => {}
        }
    }
}
