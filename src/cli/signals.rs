//! The wish to stop: SIGTERM, or Ctrl-C. The wish to read the files again: SIGHUP.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from its creation on, so that a signal during a slow start is not missed.
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

/// The same for SIGHUP, which must not end a gateway, also not while it starts.
pub(crate) struct Hangup(Signal);

impl Hangup {
    pub(crate) fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Calls `then` at each one; never ends.
    pub(crate) async fn each(&mut self, then: impl Fn()) {
        loop {
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            then();
        }
    }
}
