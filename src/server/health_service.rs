//! Health, under the standard package name and under PETNet's own.
//!
//! It has no state of its own that could go stale: every answer is made from the store's state and from whether shutdown
//! has begun. A watch reports each change and ends when shutdown begins, so that it does not hold that up.

use std::pin::Pin;

use futures_util::Stream;
use futures_util::stream::unfold;
use petnet_storage::StoreState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb as standard;

use crate::proto::health as petnet;
use crate::wire::status;

/// Service name: whether new messages are accepted.
pub(crate) const SEND: &str = "petnet.send";
/// Service name: whether messages that are there are handed out.
pub(crate) const RECEIVE: &str = "petnet.receive";

/// Names that can be asked for: the gateway as a whole, its two functions, and each service.
const SERVICES: [&str; 8] = [
    "",
    SEND,
    RECEIVE,
    "petnet.mailbox.v1.Mailbox",
    "petnet.simple.v1.SimpleRequestServer",
    "petnet.peer.v1.PeerLink",
    "petnet.health.v1.Health",
    "grpc.health.v1.Health",
];

/// Both health services.
#[derive(Debug, Clone)]
pub(crate) struct HealthApi {
    /// The store's state.
    pub(crate) store: watch::Receiver<StoreState>,
    /// Cancelled when shutdown begins.
    pub(crate) draining: CancellationToken,
}

/// Whether programs and peers should come here. A full store refuses new messages, and goes on refusing them until those it
/// holds have been read: turning readers away would keep it full.
pub(crate) fn is_ready(state: &StoreState) -> bool {
    matches!(state, StoreState::Serving | StoreState::Full(_))
}

/// Health of a service; the numbers are those of the wire, and equal in both packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceHealth {
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl HealthApi {
    fn of(&self, service: &str) -> ServiceHealth {
        if !SERVICES.contains(&service) {
            return ServiceHealth::ServiceUnknown;
        }
        let state = self.store.borrow();
        let serves = match service {
            SEND => *state == StoreState::Serving,
            RECEIVE => is_ready(&state) || matches!(*state, StoreState::Refusing(_)),
            _ => is_ready(&state),
        };
        if serves && !self.draining.is_cancelled() {
            ServiceHealth::Serving
        } else {
            ServiceHealth::NotServing
        }
    }

    fn check(&self, service: &str) -> Result<ServiceHealth, Status> {
        match self.of(service) {
            ServiceHealth::ServiceUnknown => Err(status::unknown_service(service)),
            health => Ok(health),
        }
    }

    /// The health now and after every change, until shutdown begins.
    fn changes(&self, service: String) -> impl Stream<Item = ServiceHealth> + use<> {
        unfold((self.clone(), service, None), |(mut api, service, told)| async move {
            loop {
                api.store.mark_unchanged();
                let health = api.of(&service);
                if told != Some(health) {
                    return Some((health, (api, service, Some(health))));
                }
                if api.draining.is_cancelled() {
                    return None;
                }
                tokio::select! {
                    () = api.draining.cancelled() => {}
                    changed = api.store.changed() => if changed.is_err() {
                        // The store is gone: only shutdown can still come.
                        api.draining.cancelled().await;
                    },
                }
            }
        })
    }
}

macro_rules! health_service {
    ($package:ident) => {
        #[tonic::async_trait]
        impl $package::health_server::Health for HealthApi {
            async fn check(
                &self,
                request: Request<$package::HealthCheckRequest>,
            ) -> Result<Response<$package::HealthCheckResponse>, Status> {
                let health = self.check(&request.into_inner().service)?;
                Ok(Response::new($package::HealthCheckResponse { status: health as i32 }))
            }

            type WatchStream =
                Pin<Box<dyn Stream<Item = Result<$package::HealthCheckResponse, Status>> + Send>>;

            async fn watch(
                &self,
                request: Request<$package::HealthCheckRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                let changes = self.changes(request.into_inner().service);
                let answer = |health| Ok($package::HealthCheckResponse { status: health as i32 });
                Ok(Response::new(Box::pin(futures_util::StreamExt::map(changes, answer))))
            }
        }
    };
}
health_service!(standard);
health_service!(petnet);

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn watch_tells_every_change_and_ends_with_shutdown() {
        let (store, rx) = watch::channel(StoreState::Serving);
        let api = HealthApi { store: rx, draining: CancellationToken::new() };
        let mut changes = pin!(api.changes(String::new()));
        assert_eq!(changes.next().await, Some(ServiceHealth::Serving));
        store.send_replace(StoreState::Poisoned("a test".into()));
        assert_eq!(changes.next().await, Some(ServiceHealth::NotServing));
        api.draining.cancel();
        assert_eq!(changes.next().await, None);

        let fresh = HealthApi { draining: CancellationToken::new(), ..api.clone() };
        let mut unknown = pin!(fresh.changes("no.such.Service".into()));
        assert_eq!(unknown.next().await, Some(ServiceHealth::ServiceUnknown));
        fresh.draining.cancel();
        assert_eq!(unknown.next().await, None);
    }

    /// A load balancer that took the readers away from a full gateway would keep it full.
    #[tokio::test]
    async fn a_full_store_takes_no_messages_and_serves() {
        let (store, rx) = watch::channel(StoreState::Serving);
        let api = HealthApi { store: rx, draining: CancellationToken::new() };
        let all = ["", SEND, RECEIVE].map(|service| (service, api.of(service)));
        assert_eq!(all.map(|(_, health)| health), [ServiceHealth::Serving; 3]);
        let mut sends = pin!(api.changes(SEND.into()));
        assert_eq!(sends.next().await, Some(ServiceHealth::Serving));
        store.send_replace(StoreState::Full("a test".into()));
        assert_eq!(sends.next().await, Some(ServiceHealth::NotServing));
        assert_eq!(["", RECEIVE].map(|service| api.of(service)), [ServiceHealth::Serving; 2]);
        store.send_replace(StoreState::Serving);
        assert_eq!(sends.next().await, Some(ServiceHealth::Serving), "it goes by itself");
        store.send_replace(StoreState::Refusing("a test".into()));
        let all = ["", SEND, RECEIVE].map(|service| api.of(service));
        assert_eq!(all, [ServiceHealth::NotServing, ServiceHealth::NotServing, ServiceHealth::Serving]);
    }

    #[tokio::test]
    async fn shutdown_is_told_to_watchers_before_they_end() {
        let (_store, rx) = watch::channel(StoreState::Serving);
        let api = HealthApi { store: rx, draining: CancellationToken::new() };
        let mut changes = pin!(api.changes(SERVICES[1].into()));
        assert_eq!(changes.next().await, Some(ServiceHealth::Serving));
        api.draining.cancel();
        assert_eq!(changes.next().await, Some(ServiceHealth::NotServing));
        assert_eq!(changes.next().await, None);
    }
}
