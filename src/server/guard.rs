//! Stands in front of every service: a call that [`crate::rules::access`] does not allow goes no further.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Extensions, Request, Response};

use crate::record::recorder::Record;
use crate::rules::access::{self, Caller, Denied, Right};
use crate::rules::refusal::Refusal;
use crate::server::connections::ConnectionInfo;
use crate::wire::status;

/// Layer that checks every call.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    record: Arc<Record>,
}

impl Guard {
    /// A guard that reports what it refuses to `record`.
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self { record }
    }

    /// The answer to a call that goes no further; `None` if it is allowed.
    fn stops(&self, path: &str, call: &Extensions) -> Option<Response<Body>> {
        // A service that is not in the table is not served to anybody.
        let Some(right) = Right::of(path) else { return Some(status::not_served(path)) };
        self.check(right, path, call).err().map(|why| status::denied(path, why))
    }

    fn check(&self, right: Right, path: &str, call: &Extensions) -> Result<(), Denied> {
        let info = call.get::<ConnectionInfo>();
        let caller = info.map_or(Caller::Anyone, ConnectionInfo::caller);
        access::may(&caller, right).inspect_err(|why| {
            self.record.refused(&Refusal::Denied(why.clone()));
            let from = info.map(|info| tracing::field::display(info.from()));
            tracing::warn!(from, path, %why, "call refused");
        })
    }
}

impl<S> tower::Layer<S> for Guard {
    type Service = GuardedService<S>;

    fn layer(&self, inner: S) -> GuardedService<S> {
        GuardedService { guard: self.clone(), inner }
    }
}

/// A service behind the guard.
#[derive(Debug, Clone)]
pub(crate) struct GuardedService<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request<Body>> for GuardedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<std::future::Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.guard.stops(request.uri().path(), request.extensions()) {
            None => Either::Right(self.inner.call(request)),
            Some(answer) => Either::Left(std::future::ready(Ok(answer))),
        }
    }
}
