//! Calls, from the arrival of their headers to the last byte of their answer: counted, known to their connection, and
//! their messages within `MAX_CALL_BYTES`.
//!
//! Invariants: a message of a request is read into memory only after room for it was taken; an answer's bytes count
//! until the network has taken them, or the connection is gone.

mod answer;
mod memory;
mod request;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Extensions, Request, Response};

use self::answer::Answer;
pub(crate) use self::memory::{Memory, Room};
use self::request::Incoming;
use crate::access;
use crate::listen::{ConnectionInfo, OnConnection, Transfer};

/// The calls of a server.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<CallsInner>);

#[derive(Debug)]
struct CallsInner {
    running: AtomicUsize,
    ended: Notify,
    memory: Memory,
    /// Largest gRPC message; tonic refuses a larger one unread.
    largest: u64,
}

impl Calls {
    /// With room for `bytes` of messages in memory, none above `largest`.
    pub(crate) fn new(bytes: u64, largest: u64) -> Self {
        let (running, ended) = (AtomicUsize::new(0), Notify::new());
        Self(Arc::new(CallsInner { running, ended, memory: Memory::new(bytes), largest }))
    }

    /// Calls that run.
    pub(crate) fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// Returns when no call runs.
    pub(crate) async fn none(&self) {
        while self.running() > 0 {
            // One waiter only (the server's end), and the permit of `notify_one` is kept: no wake is lost.
            self.0.ended.notified().await;
        }
    }

    fn begin(&self, on: Option<OnConnection>) -> Arc<Call> {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Arc::new(Call { calls: self.0.clone(), on, asked: Mutex::default(), answer: Mutex::default() })
    }
}

/// One call; over when the last who has it is done.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<CallsInner>,
    on: Option<OnConnection>,
    /// For the messages of its request, in their order.
    asked: Mutex<VecDeque<Room>>,
    /// For its answer.
    answer: Mutex<Option<Room>>,
}

impl Call {
    /// The call that a request belongs to; none in tests without a server.
    pub(crate) fn of(request: &Extensions) -> Option<Arc<Self>> {
        request.get::<Arc<Self>>().cloned()
    }

    /// Takes room for an answer of so many bytes, to be kept to the end of the call; waits for it.
    pub(crate) async fn room_for_answer(&self, len: u64) {
        let room = self.calls.memory.take(len).await;
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
    }

    /// The room of the oldest message of the request, given back when that message is dealt with. A call that waits for
    /// something else has to give it back before.
    pub(crate) fn take_asked(&self) -> Option<Room> {
        self.asked().pop_front()
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<Room>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfer(&self) -> Option<Transfer> {
        self.on.as_ref().map(OnConnection::transfer)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.calls.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.calls.ended.notify_one();
        }
    }
}

/// The layer.
#[derive(Debug, Clone)]
pub(crate) struct CountCalls(pub(crate) Calls);

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(crate) struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> tower::Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Counted<S>
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
        let on = request.extensions().get::<ConnectionInfo>().map(|info| info.traffic().call());
        let call = self.calls.begin(on);
        request.extensions_mut().insert(call.clone());
        let is_stream = access::is_stream(request.uri().path());
        let largest = access::largest(request.uri().path());
        let request = request.map(|body| Body::new(Incoming::new(body, call.clone(), is_stream, largest)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if !is_stream {
                // It was read and dealt with; the answer may be one that goes on for ever.
                call.asked().clear();
            }
            Ok(answer.map(|body| Body::new(Answer::new(body, call))))
        })
    }
}
