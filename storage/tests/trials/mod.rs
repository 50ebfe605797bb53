//! Many trials side by side, each by its number, so that a failed one can be run alone.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Trials wait for threads more than they compute.
const AT_ONCE: usize = 16;
/// No start, stop or call may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs work that waits; what hangs is ended by a panic.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("nothing hangs") })
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

/// `PETNET_SEED`, or 1.
pub fn seed() -> u64 {
    number("PETNET_SEED").unwrap_or(1)
}

/// Runs the trials side by side; a failed one is named, and the others still run. `PETNET_CRASH_AT=n` runs one.
pub fn all(points: impl IntoIterator<Item = u64>, trial: impl Fn(u64) + Sync) -> u64 {
    let mut points: Vec<u64> = points.into_iter().collect();
    if let Some(only) = number("PETNET_CRASH_AT") {
        points.retain(|p| *p == only);
    }
    each(&points, trial)
}

/// Runs exactly these trials side by side.
pub fn each(points: &[u64], trial: impl Fn(u64) + Sync) -> u64 {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if catch_unwind(AssertUnwindSafe(|| trial(*point))).is_err() {
                        failed.lock().expect("not poisoned").insert(*point);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "{} of {} points failed: {failed:?}", failed.len(), points.len());
    points.len() as u64
}
