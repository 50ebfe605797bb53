//! Waiting for the replicas: one `WAIT` for all callers whose changes it covers.
//!
//! A connection that waits carries nothing else in the meantime, so it should wait once for many: while one `WAIT` is under way,
//! the callers that come gather for the next. Invariant: a caller that learns that the replicas have its change asked after the
//! change was answered and before the `WAIT` that says so was sent.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::redis::connection::fault::Fault;

/// Shares `WAIT`s among the callers that wait for the replicas.
#[derive(Debug, Default)]
pub(crate) struct Confirming {
    /// Number of changes so far that were to be waited for.
    made: AtomicU64,
    told: Mutex<WaitReport>,
}

/// What the last `WAIT` reported.
#[derive(Debug, Default)]
struct WaitReport {
    /// It covers changes up to this one.
    up_to: u64,
    replicas_have_it: bool,
}

impl Confirming {
    /// Whether the replicas have a change that was answered before. `ask` sends a `WAIT`, if none is under way that covers the
    /// change.
    pub(crate) async fn wait(&self, ask: impl Future<Output = Result<bool, Fault>>) -> Result<bool, Fault> {
        let mine = self.made.fetch_add(1, Ordering::AcqRel) + 1;
        let mut told = self.told.lock().await;
        if told.up_to < mine {
            let up_to = self.made.load(Ordering::Acquire);
            *told = WaitReport { replicas_have_it: ask.await?, up_to };
        }
        Ok(told.replicas_have_it)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_come_while_one_waits_share_the_next() {
        let confirming = Confirming::default();
        let asked = AtomicU64::new(0);
        let ask = || async {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(10)).await;
            Ok(number != 1)
        };
        let first = async { (0, confirming.wait(ask()).await) };
        let later = |n: u64| {
            let ask = ask();
            let confirming = &confirming;
            async move {
                sleep(Duration::from_millis(1 + n % 5)).await;
                (n, confirming.wait(ask).await)
            }
        };
        let (first, later) = tokio::join!(first, join_all((1..=64).map(later)));
        assert_eq!(first, (0, Ok(true)));
        assert!(later.iter().all(|(_, told)| *told == Ok(false)), "all hear what theirs said");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert_eq!(confirming.wait(ask()).await, Ok(true), "what came after it asks anew");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_told_was_covered() {
        let confirming = Arc::new(Confirming::default());
        // Number of the last change when a WAIT was sent, as a server would count it.
        let (changes, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let one = |n: u64| {
            let (confirming, changes, sent) = (confirming.clone(), changes.clone(), sent.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    sleep(Duration::from_millis((n * 7 + round * 3) % 11)).await;
                    let mine = changes.fetch_add(1, Ordering::SeqCst) + 1;
                    let ask = async {
                        let now = changes.load(Ordering::SeqCst);
                        sleep(Duration::from_millis(3)).await;
                        sent.fetch_max(now, Ordering::SeqCst);
                        Ok(true)
                    };
                    assert_eq!(confirming.wait(ask).await, Ok(true));
                    assert!(sent.load(Ordering::SeqCst) >= mine);
                }
            })
        };
        for task in join_all((0..16).map(one)).await {
            task.unwrap();
        }
    }
}
