//! Writes to Redis which messages were handed to readers.
//!
//! [`PAUSE`] after the first note it writes everything noted by then, in one script, so that a gateway under load sends ten more
//! commands a second and an idle one none.

use std::time::Duration;

use tokio::time::sleep;

use crate::face::error::Result;
use crate::redis::connection::scripts::SCRIPTS;
use crate::redis::connection::session::Way;
use crate::redis::shared::RedisShared;

/// Time between the first note and writing it; more come in the meantime.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after Redis did not accept the notes.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl RedisShared {
    /// Writes notes until the store closes.
    pub(crate) async fn keep_reads(&self) {
        let keep = async {
            loop {
                self.reads.wake.notified().await;
                sleep(PAUSE).await;
                while let Err(error) = self.write_reads().await {
                    tracing::debug!(%error, "reads are not noted in Redis yet");
                    sleep(TRY_AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = keep => {}
        }
    }

    /// Writes all notes.
    pub(crate) async fn write_reads(&self) -> Result<()> {
        let _one = self.reads.writing.lock().await;
        loop {
            let some = self.reads.first();
            if some.is_empty() {
                return Ok(());
            }
            // Writing a note twice changes nothing.
            self.ask::<u64>(Way::Write, &SCRIPTS.reads, |call| {
                for read in &some {
                    call.arg(read.sequence).arg(read.time);
                }
            })
            .await?;
            self.reads.written(some.len());
        }
    }
}
