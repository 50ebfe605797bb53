//! The session in force, waiting for one, and the state of the store that follows from it.
//!
//! Invariant: the store counts as serving only while there is a session, Redis accepts writes, and there is room.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::face::engine::StoreState;
use crate::face::error::{Result, StoreError};
use crate::redis::connection::session::Session;
use crate::redis::room::{self, LackOfRoom};

#[derive(Debug, Clone)]
enum CurrentSession {
    Up(Arc<Session>),
    /// The reason, and since when.
    Down(Arc<str>, Instant),
    Closed,
}

/// The session in force, or why there is none, and the state of the store.
#[derive(Debug)]
pub(crate) struct Sessions {
    current: watch::Sender<CurrentSession>,
    status: watch::Sender<StoreState>,
    /// Why Redis accepts no writes although it answers.
    refusing: Mutex<Option<Arc<str>>>,
    /// Messages that the quota has no room for.
    lacking: Mutex<Option<LackOfRoom>>,
    timeout: Duration,
}

impl Sessions {
    pub(crate) fn new(timeout: Duration) -> Self {
        let why: Arc<str> = "not connected yet".into();
        Self {
            current: watch::Sender::new(CurrentSession::Down(why.clone(), Instant::now())),
            status: watch::Sender::new(StoreState::Unavailable(why)),
            refusing: Mutex::default(),
            lacking: Mutex::default(),
            timeout,
        }
    }

    /// The current state, and its changes.
    pub(crate) fn state(&self) -> watch::Receiver<StoreState> {
        self.status.subscribe()
    }

    pub(crate) fn up(&self, session: Arc<Session>) {
        self.set(CurrentSession::Up(session));
    }

    /// There is no session; it counts as down since the first such call in a row.
    pub(crate) fn down(&self, why: &str) {
        let since = match &*self.current.borrow() {
            CurrentSession::Down(_, since) => *since,
            _ => Instant::now(),
        };
        self.set(CurrentSession::Down(why.into(), since));
    }

    pub(crate) fn close(&self) {
        self.set(CurrentSession::Closed);
    }

    fn set(&self, next: CurrentSession) {
        self.current.send_modify(|current| {
            if !matches!(current, CurrentSession::Closed) {
                *current = next;
            }
        });
        self.tell();
    }

    /// Redis refuses writes, or no longer does.
    pub(crate) fn set_refusing(&self, why: Option<&Arc<str>>) {
        let mut refusing = self.refusing.lock();
        // The first word is the kind of refusal; the rest may depend on the command that was refused. A lack of memory is
        // reported in several ways.
        let kind = |why: &Arc<str>| {
            let first = why.split(' ').next().unwrap_or_default();
            if room::lacks_memory(why) { "OOM".to_owned() } else { first.to_owned() }
        };
        if refusing.as_ref().map(kind) == why.map(kind) {
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

    /// The quota has no room for some messages, or has room for all again.
    pub(crate) fn set_lacking(&self, lack: Option<LackOfRoom>) {
        let mut lacking = self.lacking.lock();
        // The figures are those from when it began.
        if lacking.as_ref().map(|lack| lack.what) == lack.as_ref().map(|lack| lack.what) {
            return;
        }
        if let Some(lack) = &lack {
            tracing::warn!(why = %lack.text(), "the store is full");
        } else {
            tracing::info!("the store has room for new messages again");
        }
        *lacking = lack;
        drop(lacking);
        self.tell();
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.lock().is_some()
    }

    fn tell(&self) {
        let state = match (&*self.current.borrow(), &*self.refusing.lock(), &*self.lacking.lock()) {
            (CurrentSession::Closed, ..) => StoreState::Closed,
            (CurrentSession::Down(why, _), ..) => StoreState::Unavailable(why.clone()),
            // Existing messages can still be read and delivered, and can end.
            (CurrentSession::Up(_), Some(why), _) if room::lacks_memory(why) => {
                StoreState::Full(room::lack_of_memory(why))
            }
            (CurrentSession::Up(_), Some(why), _) => StoreState::Refusing(why.clone()),
            (CurrentSession::Up(_), None, Some(lack)) => StoreState::Full(lack.text()),
            (CurrentSession::Up(_), None, None) => StoreState::Serving,
        };
        self.status.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    /// A session to work with. Waits for one to return, at most until `until`, and not if it has been away for longer than calls
    /// wait: then the answer is known.
    pub(crate) async fn get(&self, until: Instant) -> Result<Arc<Session>> {
        self.wait(|since| until.min(since + self.timeout)).await
    }

    /// A session to work with; waits until `until` in any case.
    pub(crate) async fn get_patiently(&self, until: Instant) -> Result<Arc<Session>> {
        self.wait(|_| until).await
    }

    async fn wait(&self, limit: impl Fn(Instant) -> Instant) -> Result<Arc<Session>> {
        let mut current = self.current.subscribe();
        loop {
            let (why, limit) = match &*current.borrow_and_update() {
                CurrentSession::Up(session) if !session.life.is_over() => return Ok(session.clone()),
                // Its end is about to be noticed.
                CurrentSession::Up(session) => {
                    (format!("{}: the connection is lost", session.node).into(), limit(Instant::now()))
                }
                CurrentSession::Down(why, since) => (why.clone(), limit(*since)),
                CurrentSession::Closed => return Err(StoreError::Closed),
            };
            match timeout_at(limit, current.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(StoreError::Closed),
                Err(_) => return Err(StoreError::Unavailable(why)),
            }
        }
    }
}
