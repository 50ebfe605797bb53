//! Requests to stop (SIGTERM, or Ctrl-C) and to read the files again (SIGHUP); and SIGXFSZ, which must end nothing.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From now on, a write beyond the limit of a file's size (`ulimit -f`) is an error and does not end the process.
pub(crate) fn survive_large_files() -> io::Result<()> {
    // Listening installs a handler, which stays after the listener is dropped.
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

/// Requests to stop. It listens from its creation on, so that a signal during a slow start is not missed.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves with the name of the next signal. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Requests to read the files again (SIGHUP). They must not end a gateway, not even while it starts.
pub(crate) struct Hangup(Signal);

impl Hangup {
    pub(crate) fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Calls `then` for each signal; never ends.
    pub(crate) async fn each(&mut self, then: impl Fn()) {
        loop {
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            then();
        }
    }
}

/// Signals that would end the process and mean nothing to a gateway: a handler that does nothing makes them harmless. The
/// signals that the kernel sends for a fault in the process are left as they are, and so are SIGQUIT (a core file) and
/// SIGKILL.
pub(crate) struct IgnoredSignals(#[allow(dead_code, reason = "held, so that the handlers stay")] Vec<Signal>);

impl IgnoredSignals {
    pub(crate) fn ignore() -> Self {
        let more = [number::VTALRM, number::PROF, number::STKFLT, number::PWR];
        let kinds =
            [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm(), SignalKind::io()];
        let kinds = kinds.into_iter().chain(more.map(SignalKind::from_raw));
        Self(kinds.filter_map(|kind| signal(kind).ok()).collect())
    }
}

/// Numbers of signals that tokio has no name for, as given in signal(7) for x86 and ARM.
mod number {
    pub(crate) const STKFLT: i32 = 16;
    pub(crate) const VTALRM: i32 = 26;
    pub(crate) const PROF: i32 = 27;
    pub(crate) const PWR: i32 = 30;
}
