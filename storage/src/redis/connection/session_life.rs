//! How long a session may be used, and what its end means for calls that are under way.
//!
//! A session that has ended takes no new calls. Those under way still get their own answers, as long as the server can give
//! them: a "read-only" answer to one call says nothing about the answer to another. Only if the server or the connection to it
//! is lost does nobody wait for an answer any more.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::redis::connection::fault::Fault;

/// The end of a session and its reason.
#[derive(Debug, Default)]
pub(crate) struct SessionLife {
    over: CancellationToken,
    lost: CancellationToken,
    why: OnceLock<Arc<str>>,
}

impl SessionLife {
    /// Ends the session; calls under way get their answers.
    pub(crate) fn end(&self, why: &str) {
        // The first reason is the one that counts.
        drop(self.why.set(why.into()));
        self.over.cancel();
    }

    /// Ends the session at once: calls under way get no answer.
    pub(crate) fn lose(&self, why: &str) {
        self.end(why);
        self.lost.cancel();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves with the reason when the session has ended.
    pub(crate) async fn ended(&self) -> Arc<str> {
        self.over.cancelled().await;
        self.why()
    }

    fn why(&self) -> Arc<str> {
        self.why.get().cloned().unwrap_or_else(|| "the connection is over".into())
    }

    /// The answer to a call, whose time is limited by the caller. Ends the session if the answer shows that it is of no more
    /// use.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = self.lost.cancelled() => Err(Fault::Lost(self.why())),
        };
        match &answer {
            Err(Fault::Lost(why)) => self.lose(why),
            Err(Fault::WrongServer(why)) => self.end(why),
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::sync::oneshot;

    use super::*;

    fn call(
        life: &SessionLife,
    ) -> (oneshot::Sender<Result<u8, Fault>>, impl Future<Output = Result<u8, Fault>>) {
        let (answer, answered) = oneshot::channel();
        (answer, life.answer(async { answered.await.unwrap_or_else(|_| Err(Fault::Lost("dropped".into()))) }))
    }

    #[tokio::test]
    async fn a_call_gets_its_own_answer_when_another_was_told_that_this_is_the_wrong_server() {
        let life = SessionLife::default();
        let ((answer, first), (another, second)) = (call(&life), call(&life));
        let (mut first, second) = (Box::pin(first), Box::pin(second));
        assert!(poll!(&mut first).is_pending());
        another.send(Err(Fault::WrongServer("READONLY".into()))).unwrap();
        assert!(matches!(second.await, Err(Fault::WrongServer(_))));
        assert!(life.is_over(), "nothing new is asked");
        assert!(poll!(&mut first).is_pending(), "it may have been carried out or not");
        answer.send(Ok(7)).unwrap();
        assert_eq!(first.await, Ok(7));
        assert_eq!(&*life.ended().await, "READONLY");
    }

    #[tokio::test]
    async fn nobody_waits_for_an_answer_of_a_server_that_is_lost() {
        let life = SessionLife::default();
        let ((_answer, first), (another, second)) = (call(&life), call(&life));
        let mut first = Box::pin(first);
        assert!(poll!(&mut first).is_pending());
        another.send(Err(Fault::Lost("broken pipe".into()))).unwrap();
        assert!(second.await.is_err());
        assert_eq!(first.await, Err(Fault::Lost("broken pipe".into())));
    }
}
