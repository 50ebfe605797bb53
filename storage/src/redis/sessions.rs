//! The session in force, and waiting for one; with it the state of the store.
//!
//! Invariant: the store counts as serving only while there is a session and Redis takes what is written.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::session::Session;
use crate::engine::StoreState;
use crate::error::{Result, StoreError};
use crate::log::lock;

#[derive(Debug, Clone)]
enum Current {
    Up(Arc<Session>),
    /// Why, and since when.
    Down(Arc<str>, Instant),
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sessions {
    current: watch::Sender<Current>,
    status: watch::Sender<StoreState>,
    /// Why Redis takes nothing although it answers.
    refusing: Mutex<Option<Arc<str>>>,
    timeout: Duration,
}

impl Sessions {
    pub(super) fn new(timeout: Duration) -> Self {
        let why: Arc<str> = "not connected yet".into();
        Self {
            current: watch::Sender::new(Current::Down(why.clone(), Instant::now())),
            status: watch::Sender::new(StoreState::Unavailable(why)),
            refusing: Mutex::default(),
            timeout,
        }
    }

    /// The state, now and on change.
    pub(super) fn state(&self) -> watch::Receiver<StoreState> {
        self.status.subscribe()
    }

    pub(super) fn up(&self, session: Arc<Session>) {
        self.set(Current::Up(session));
    }

    /// There is none; since the first of such calls in a row.
    pub(super) fn down(&self, why: &str) {
        let since = match &*self.current.borrow() {
            Current::Down(_, since) => *since,
            _ => Instant::now(),
        };
        self.set(Current::Down(why.into(), since));
    }

    pub(super) fn close(&self) {
        self.set(Current::Closed);
    }

    fn set(&self, next: Current) {
        self.current.send_modify(|current| {
            if !matches!(current, Current::Closed) {
                *current = next;
            }
        });
        self.tell();
    }

    /// Redis refuses to write, or does so no more.
    pub(super) fn set_refusing(&self, why: Option<&Arc<str>>) {
        let mut refusing = lock(&self.refusing);
        if refusing.as_ref() == why {
            return;
        }
        *refusing = why.cloned();
        drop(refusing);
        if let Some(why) = why {
            tracing::warn!(%why, "Redis takes no new messages; sends are refused until it does");
        } else {
            tracing::info!("Redis takes new messages again");
        }
        self.tell();
    }

    pub(super) fn is_refusing(&self) -> bool {
        lock(&self.refusing).is_some()
    }

    fn tell(&self) {
        let state = match (&*self.current.borrow(), &*lock(&self.refusing)) {
            (Current::Closed, _) => StoreState::Closed,
            (Current::Down(why, _), _) => StoreState::Unavailable(why.clone()),
            (Current::Up(_), Some(why)) => StoreState::Refusing(why.clone()),
            (Current::Up(_), None) => StoreState::Serving,
        };
        self.status.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    /// A session to work with. Waits for one to come back, at most until `until`, and not when it has been away for longer
    /// than calls wait: then the answer is known.
    pub(super) async fn get(&self, until: Instant) -> Result<Arc<Session>> {
        self.wait(|since| until.min(since + self.timeout)).await
    }

    /// The same; waits until `until` in any case.
    pub(super) async fn get_patiently(&self, until: Instant) -> Result<Arc<Session>> {
        self.wait(|_| until).await
    }

    async fn wait(&self, limit: impl Fn(Instant) -> Instant) -> Result<Arc<Session>> {
        let mut current = self.current.subscribe();
        loop {
            let (why, limit) = match &*current.borrow_and_update() {
                Current::Up(session) if !session.is_over() => return Ok(session.clone()),
                // Its end is about to be noticed.
                Current::Up(session) => {
                    (format!("{}: the connection is lost", session.node).into(), limit(Instant::now()))
                }
                Current::Down(why, since) => (why.clone(), limit(*since)),
                Current::Closed => return Err(StoreError::Closed),
            };
            match timeout_at(limit, current.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(StoreError::Closed),
                Err(_) => return Err(StoreError::Unavailable(why)),
            }
        }
    }
}
