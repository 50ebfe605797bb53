//! How a command is run, and how it ends.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::terminal::signals;

/// How long background work may take to end once a command has its result.
const RUNTIME_GRACE: Duration = Duration::from_secs(2);

/// The exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Ok,
    /// 1
    Failed,
    /// 2
    WrongSettings,
    /// 3
    CouldNotStart,
    /// 4
    Poisoned,
    /// 5
    NotThere,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::WrongSettings => 2,
            Exit::CouldNotStart => 3,
            Exit::Poisoned => 4,
            Exit::NotThere => 5,
        })
    }
}

/// Runs a command to its end. What it left running in the background does not hold up the process.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        signals::survive_large_files()?;
        command.await
    });
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}
