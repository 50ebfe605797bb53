//! One way to a peer: its channel, and the stream that is open over it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use petnet_storage::PartyId;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::connect::Dial;
use super::fence::{Fence, RouteFence};
use super::stream::LinkStream;
use crate::rules::parties::Connection;
use crate::tls::counted::BytesMoved;
use crate::tls::trust::Trust;

/// A peer that did not know the stream may have been replaced by one that does, so it is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_mins(10);

/// One connection of the party file.
#[derive(Debug)]
pub(super) struct Route {
    dial: Dial,
    fenced: RouteFence,
    channel: Mutex<RouteConnection>,
    /// Held while a stream is opened: many attempts need it at once, and one of them opens it.
    link: tokio::sync::Mutex<LinkState>,
}

/// The current connection of a route; each is replaced by the next.
#[derive(Debug, Clone)]
pub(super) struct RouteConnection {
    pub(super) generation: u64,
    pub(super) channel: Channel,
    /// Counts what crosses it.
    pub(super) moved: BytesMoved,
}

/// What is known of a route's stream.
#[derive(Debug)]
enum LinkState {
    Closed,
    Open(Arc<LinkStream>),
    /// The peer does not know it, and is asked again from this moment on.
    NotKnown(Instant),
}

impl Route {
    /// A route over one connection. On an error, nobody can be reached over it.
    pub(super) fn new(trust: &Trust, connection: &Connection, fence: &Fence) -> Result<Self, String> {
        let dial = Dial::new(trust, fence.peer(), connection)?;
        let fenced = RouteFence::new(fence.clone());
        let (channel, moved) = dial.channel(fenced.gate());
        let channel = Mutex::new(RouteConnection { generation: 0, channel, moved });
        Ok(Self { dial, fenced, channel, link: tokio::sync::Mutex::new(LinkState::Closed) })
    }

    pub(super) fn channel(&self) -> RouteConnection {
        self.channel.lock().clone()
    }

    pub(super) fn renew(&self, generation: u64) {
        {
            let mut channel = self.channel.lock();
            if channel.generation != generation {
                return;
            }
            let (new, moved) = self.dial.channel(self.fenced.gate());
            *channel = RouteConnection { generation: generation + 1, channel: new, moved };
        }
        // If the lock is taken, its holder is opening a stream over the old connection, in vain.
        if let Ok(mut link) = self.link.try_lock()
            && let LinkState::Open(stream) = &*link
        {
            stream.give_up(crate::wire::status::link_ended());
            *link = LinkState::Closed;
        }
    }

    /// The open stream, which is opened if necessary; `None` if the peer does not know it.
    pub(super) async fn link(
        &self,
        channel: Channel,
        ours: &PartyId,
        window: u64,
        tasks: &TaskTracker,
    ) -> Result<Option<Arc<LinkStream>>, Status> {
        let mut link = self.link.lock().await;
        match &*link {
            LinkState::Open(stream) if !stream.is_over() => return Ok(Some(stream.clone())),
            LinkState::NotKnown(ask_at) if Instant::now() < *ask_at => return Ok(None),
            _ => {}
        }
        match LinkStream::open(channel, ours, window, tasks).await {
            Ok(stream) => {
                self.fenced.set(false);
                let stream = Arc::new(stream);
                *link = LinkState::Open(stream.clone());
                Ok(Some(stream))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                self.fenced.set(true);
                if !matches!(*link, LinkState::NotKnown(_)) {
                    let url = self.dial.uri();
                    tracing::info!(%url, "the peer does not know the peer link; delivering over ServerSimpleSend");
                }
                *link = LinkState::NotKnown(Instant::now() + ASK_AGAIN);
                Ok(None)
            }
            Err(status) => {
                *link = LinkState::Closed;
                Err(status)
            }
        }
    }
}
