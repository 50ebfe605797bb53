//! Calls, from the arrival of their headers to the last byte of their answer: they are counted and known to their
//! connection, and their messages are kept within `MAX_CALL_BYTES`.
//!
//! Invariants: no more of a message is read before room was taken for what has come; the bytes of an answer count until the
//! network has taken them or the connection is gone; what a caller holds counts against its own share.

mod answer;
mod memory;
mod messages;
mod pool;
mod request;
mod shares;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Extensions, Request, Response};

use self::answer::AnswerBody;
pub(crate) use self::memory::{Memory, Room};
use self::request::RequestBody;
use crate::mailbox::finding::AskingCaller;
use crate::rules::access;
use crate::server::callers::ShareHolder;
use crate::server::connections::{ConnectionInfo, OnConnection, Transfer};

/// The calls of a server.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<CallsState>);

#[derive(Debug)]
struct CallsState {
    running: AtomicUsize,
    ended: Notify,
    memory: Arc<Memory>,
    /// Holder for calls that come over no connection.
    alone: Arc<ShareHolder>,
    /// Largest gRPC message; tonic refuses a larger one unread.
    largest: u64,
}

impl Calls {
    /// Calls with room for `bytes` of messages in memory, none of them larger than `largest`.
    pub(crate) fn new(bytes: u64, largest: u64) -> Self {
        let (running, ended) = (AtomicUsize::new(0), Notify::new());
        let memory = Memory::new(bytes, largest);
        Self(Arc::new(CallsState { running, ended, memory, alone: ShareHolder::alone(), largest }))
    }

    /// Number of calls that are running.
    pub(crate) fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// The memory of all calls.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0.memory
    }

    /// Returns when no call is running.
    pub(crate) async fn none(&self) {
        while self.running() > 0 {
            // One waiter only (the server's end), and the permit of `notify_one` is kept: no wake is lost.
            self.0.ended.notified().await;
        }
    }

    fn begin(&self, info: Option<&ConnectionInfo>) -> Arc<Call> {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        let on = info.map(|info| info.traffic().call());
        let holder = info.and_then(ConnectionInfo::holder).unwrap_or(&self.0.alone).clone();
        Arc::new(Call {
            calls: self.0.clone(),
            on,
            holder,
            asked: Mutex::default(),
            answer: Mutex::default(),
        })
    }
}

/// One call; it ends when its last holder drops it.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<CallsState>,
    on: Option<OnConnection>,
    /// The caller whose share it uses.
    holder: Arc<ShareHolder>,
    /// Room for the messages of its request, in their order.
    asked: Mutex<VecDeque<Room>>,
    /// Room for its answer.
    answer: Mutex<Option<Room>>,
}

impl Call {
    /// The call that a request belongs to; `None` in tests without a server.
    pub(crate) fn of(request: &Extensions) -> Option<Arc<Self>> {
        request.get::<Arc<Self>>().cloned()
    }

    /// Takes room for an answer of `len` bytes, to be kept until the end of the call; waits for it.
    pub(crate) async fn room_for_answer(&self, len: u64) {
        let room = self.calls.memory.take(&self.holder, len).await;
        *self.answer.lock() = Some(room);
    }

    /// The room of the oldest message of the request, returned when that message has been dealt with. A call that waits for
    /// something else has to return it first.
    pub(crate) fn take_asked(&self) -> Option<Room> {
        self.asked().pop_front()
    }

    /// Number of the caller.
    pub(crate) fn caller(&self) -> u64 {
        self.holder.id
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<Room>> {
        self.asked.lock()
    }

    fn transfer(&self) -> Option<Transfer> {
        self.on.as_ref().map(OnConnection::transfer)
    }
}

/// `None` in tests without a server.
impl AskingCaller for Option<Arc<Call>> {
    fn caller(&self) -> u64 {
        self.as_ref().map_or(0, |call| call.caller())
    }

    async fn make_room(&self, len: u64) {
        if let Some(call) = self {
            call.room_for_answer(len).await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.calls.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.calls.ended.notify_one();
        }
    }
}

/// Layer that counts the calls of a service.
#[derive(Debug, Clone)]
pub(crate) struct CountCalls(pub(crate) Calls);

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(crate) struct CountedService<S> {
    calls: Calls,
    inner: S,
}

impl<S> tower::Layer<S> for CountCalls {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { calls: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for CountedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let call = self.calls.begin(request.extensions().get::<ConnectionInfo>());
        request.extensions_mut().insert(call.clone());
        let is_stream = access::is_stream(request.uri().path());
        let largest = access::largest(request.uri().path());
        let request = request.map(|body| Body::new(RequestBody::new(body, call.clone(), is_stream, largest)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if !is_stream {
                // The message was read and dealt with; the answer may be a stream that never ends.
                call.asked().clear();
            }
            Ok(answer.map(|body| Body::new(AnswerBody::new(body, call))))
        })
    }
}
