//! A target that breaks off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use petnet_storage::StoreError;
use petnet_storage::transfer::{Moved, Remembered, Result, Resume, Source, Summary, Target};

/// Fails after some messages, as if the process were killed there.
pub struct Cut<T> {
    target: T,
    left: AtomicU64,
}

impl<T> Cut<T> {
    pub fn after(target: T, messages: u64) -> Self {
        Self { target, left: AtomicU64::new(messages) }
    }
}

#[async_trait]
impl<T: Target> Target for Cut<T> {
    async fn begin(&self, source: &Summary) -> Result<Resume> {
        self.target.begin(source).await
    }
    async fn remember(&self, memory: Vec<Remembered>) -> Result<()> {
        self.target.remember(memory).await
    }
    async fn put(&self, messages: Vec<Moved>) -> Result<()> {
        // One at a time, so that there are many places to be cut off at.
        for message in messages {
            if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Err(StoreError::Closed.into());
            }
            self.target.put(vec![message]).await?;
        }
        Ok(())
    }
    async fn read_back(&self) -> Result<Arc<dyn Source>> {
        self.target.read_back().await
    }
    async fn finish(&self) -> Result<()> {
        self.target.finish().await
    }

    async fn leave(&self) {
        self.target.leave().await;
    }
}
