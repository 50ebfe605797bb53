//! A large message over a link's stream: in parts, starting where the peer says, as far ahead as the window allows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use petnet_storage::{Outgoing, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use super::Verdict;
use super::stream::{LinkStream, SentDelivery, WINDOW_UNIT};
use crate::proto::peer::Part;
use crate::wire::link_limits::PART_BYTES;

/// Why delivering in parts failed.
pub(super) enum PartsFailure {
    /// The stream ended.
    Stream(Status),
    /// Our own store could not read the message.
    Store(StoreError),
}

impl From<Status> for PartsFailure {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

type PermitFuture = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// Delivers a large message.
pub(super) async fn deliver(stream: &LinkStream, message: &Outgoing) -> Result<Verdict, PartsFailure> {
    let (tell, progress) = watch::channel(None);
    let len = message.payload.len();
    let sent = stream.send(message, Bytes::new(), Some(len), Some(tell)).await?;
    let mut parts =
        OutgoingLarge { stream, message, len, sent, progress, under_way: VecDeque::new(), acquire: None };
    parts.send_all().await
}

/// A large message that is being sent.
struct OutgoingLarge<'a> {
    stream: &'a LinkStream,
    message: &'a Outgoing,
    len: u64,
    sent: SentDelivery<'a>,
    progress: watch::Receiver<Option<u64>>,
    /// Where each part ends that was sent and is not durable at the peer yet, with its share of the window.
    under_way: VecDeque<(u64, OwnedSemaphorePermit)>,
    acquire: Option<PermitFuture>,
}

impl OutgoingLarge<'_> {
    async fn send_all(&mut self) -> Result<Verdict, PartsFailure> {
        let mut next = None;
        loop {
            let known = *self.progress.borrow_and_update();
            while self.under_way.front().is_some_and(|(end, _)| Some(*end) <= known) {
                self.under_way.pop_front();
            }
            if next.is_none() {
                // The peer may once have had more of it than it has now.
                next = known.map(|at| at.min(self.len));
            }
            let part = next.filter(|at| *at < self.len).map(|at| (at, part_len(at, self.len)));
            if let Some((_, len)) = part {
                let window = self.stream.window.clone();
                self.acquire.get_or_insert_with(|| acquire(window, len));
            }
            let permit = tokio::select! {
                biased;
                answer = &mut self.sent.answered => return answer.map_err(|_| self.stream.why().into()),
                // The sender of the progress is dropped with the answer.
                Ok(()) = self.progress.changed() => continue,
                permit = wait(&mut self.acquire), if part.is_some() => permit,
            };
            self.acquire = None;
            let (Some(permit), Some((at, len))) = (permit, part) else {
                return Err(self.stream.why().into());
            };
            let end = self.send(at, len).await?;
            self.under_way.push_back((end, permit));
            next = Some(end);
        }
    }

    /// Sends a part; returns where it ends.
    async fn send(&mut self, at: u64, len: u64) -> Result<u64, PartsFailure> {
        let mut payload = match self.message.payload.piece(at).await {
            Ok(payload) => payload,
            Err(error) => {
                // An empty part: the peer need not wait for the rest, nor keep what it has.
                let nothing = Part { tag: self.sent.tag, offset: at, payload: Bytes::new() };
                drop(self.stream.parts.send(nothing).await);
                return Err(PartsFailure::Store(error));
            }
        };
        payload.truncate(len as usize);
        let end = at + payload.len() as u64;
        let part = Part { tag: self.sent.tag, offset: at, payload };
        self.stream.parts.send(part).await.map_err(|_| self.stream.why())?;
        Ok(end)
    }
}

/// Parts end where the slices of the log end.
fn part_len(at: u64, len: u64) -> u64 {
    (PART_BYTES as u64 - at % PART_BYTES as u64).min(len - at)
}

fn acquire(window: Arc<Semaphore>, len: u64) -> PermitFuture {
    let units = len.div_ceil(WINDOW_UNIT) as u32;
    Box::pin(async move { window.acquire_many_owned(units).await.ok() })
}

async fn wait(acquire: &mut Option<PermitFuture>) -> Option<OwnedSemaphorePermit> {
    match acquire {
        Some(acquire) => acquire.await,
        None => std::future::pending().await,
    }
}
