//! Repeats attempts until a time has expired: a gateway that restarts is waited for, and the user is told once why.
//!
//! Invariant: what cannot pass (a malformed address, a certificate that is not believed, a port of something else) ends it
//! at once; everything else is tried again until the deadline, and never after it.

use std::io::ErrorKind;
use std::time::Duration;

use rustls::Error as TlsError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::cli::terminal::causes;
use crate::tls::connector::HandshakeFailed;

/// Pause before the first further attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a port has to show what speaks there.
const LOOK: Duration = Duration::from_secs(2);

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum AttemptFailure {
    /// Another attempt may succeed.
    Passing(anyhow::Error),
    /// Every attempt would fail.
    Final(anyhow::Error),
}

impl AttemptFailure {
    /// The error to report.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Passing(error) | Self::Final(error) => error,
        }
    }
}

/// Whether a call may succeed when it is made again: the gateway says so, or the connection broke.
pub(crate) fn is_passing(status: &Status) -> bool {
    // An answer of a gateway comes without a source; an error on the way has one.
    status.code() == Code::Unavailable
        || (std::error::Error::source(status).is_some() && !is_tls_refusal(status))
}

/// How the TLS library's error text begins when the other side ended the connection.
const ALERT_RECEIVED: &str = "received fatal alert";

/// Whether one side refused the other's certificate, or uses an incompatible TLS.
pub(crate) fn is_tls_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<TlsError>() || error.downcast_ref::<HandshakeFailed>().is_some_and(|why| why.is_refusal)
        {
            return true;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            // The HTTP/2 library keeps only the text of a TLS error.
            let is_alert = io.kind() == ErrorKind::InvalidData && io.to_string().starts_with(ALERT_RECEIVED);
            if is_alert || io.get_ref().is_some_and(|inner| is_tls_refusal(inner)) {
                return true;
            }
        }
        next = error.source();
    }
    false
}

/// The time that is left for an operation.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    pause: Duration,
    told: bool,
}

impl Patience {
    /// Lasts for `limit` from now on.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, pause: FIRST_PAUSE, told: false }
    }

    /// Starts the time again.
    pub(crate) fn renew(&mut self, limit: Duration) {
        self.until = Instant::now() + limit;
        self.pause = FIRST_PAUSE;
    }

    /// The time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Whether to try again after a failure; waits for the pause first. The first time it reports why.
    pub(crate) async fn again(&mut self, why: &anyhow::Error) -> bool {
        let left = self.left();
        if left.is_zero() {
            return false;
        }
        if !std::mem::replace(&mut self.told, true) {
            complain!("{}; trying again for up to {}", causes::in_words(why), seconds(left));
        }
        sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }

    /// Runs `attempt` until it succeeds, fails for good, or the time has expired.
    pub(crate) async fn with<T>(
        &mut self,
        mut attempt: impl AsyncFnMut() -> Result<T, AttemptFailure>,
    ) -> anyhow::Result<T> {
        loop {
            match attempt().await {
                Ok(done) => {
                    self.pause = FIRST_PAUSE;
                    return Ok(done);
                }
                Err(AttemptFailure::Final(error)) => return Err(error),
                Err(AttemptFailure::Passing(error)) => {
                    if !self.again(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Rounded seconds, for people to read.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64().ceil())
}

/// What speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortProtocol {
    /// It answers HTTP/1: a gateway's status page and metrics, or something else altogether.
    Page,
    /// It speaks TLS.
    Tls,
    /// It speaks HTTP/2 without TLS.
    Plain,
    /// Nobody answers, or the answer is something else.
    Unknown,
}

/// Finds out what speaks on a port, with a request that each kind answers in its own way.
pub(crate) async fn look_at(address: &str) -> PortProtocol {
    timeout(LOOK, first_bytes(address))
        .await
        .ok()
        .and_then(Result::ok)
        .map_or(PortProtocol::Unknown, |bytes| kind(&bytes))
}

async fn first_bytes(address: &str) -> std::io::Result<Vec<u8>> {
    const ENOUGH: u64 = 16;
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut bytes = Vec::new();
    socket.take(ENOUGH).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn kind(bytes: &[u8]) -> PortProtocol {
    /// First bytes of a TLS record with an alert, and the type of a SETTINGS frame of HTTP/2.
    const ALERT: [u8; 2] = [0x15, 3];
    const SETTINGS: u8 = 4;
    if bytes.starts_with(b"HTTP/1.") {
        PortProtocol::Page
    } else if bytes.starts_with(&ALERT) {
        PortProtocol::Tls
    } else if bytes.get(3) == Some(&SETTINGS) {
        PortProtocol::Plain
    } else {
        PortProtocol::Unknown
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::anyhow;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_until_the_time_is_over_and_not_beyond() {
        let mut tries = 0;
        let mut patience = Patience::new(Duration::from_secs(20));
        let began = Instant::now();
        let end = patience
            .with(async || {
                tries += 1;
                Err::<(), _>(AttemptFailure::Passing(anyhow!("not there")))
            })
            .await;
        assert!(end.is_err() && tries > 5, "{tries}");
        assert_eq!(began.elapsed().as_secs(), 20);
        let mut tries = 0;
        let end = Patience::new(Duration::from_secs(20))
            .with(async || {
                tries += 1;
                if tries < 4 { Err(AttemptFailure::Passing(anyhow!("not there"))) } else { Ok(tries) }
            })
            .await;
        assert_eq!(end.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_is_not_tried_again_and_without_time_nothing_is() {
        for (failed, limit) in [
            (AttemptFailure::Final(anyhow!("wrong")), Duration::from_secs(20)),
            (AttemptFailure::Passing(anyhow!("not there")), Duration::ZERO),
        ] {
            let mut failed = Some(failed);
            let end = Patience::new(limit).with(async || Err::<(), _>(failed.take().unwrap())).await;
            assert!(end.is_err());
        }
    }

    #[test]
    fn a_refused_certificate_is_found_however_deep_it_lies() {
        let tls = TlsError::General("a test".into());
        let io = std::io::Error::other(tls);
        assert!(is_tls_refusal(&io));
        let alert = TlsError::AlertReceived(rustls::AlertDescription::HandshakeFailure).to_string();
        assert!(is_tls_refusal(&std::io::Error::new(ErrorKind::InvalidData, alert)), "as HTTP/2 hands it on");
        assert!(!is_tls_refusal(&std::io::Error::new(ErrorKind::InvalidData, "another")));
        let mut status = Status::unknown("broken");
        assert!(!is_passing(&status), "an answer of the gateway");
        status.set_source(Arc::new(std::io::Error::other(io)));
        assert!(!is_passing(&status));
        status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(is_passing(&status));
        assert!(is_passing(&Status::unavailable("starting")));
    }

    #[tokio::test]
    async fn a_port_is_told_by_its_first_bytes() {
        for (answer, expected) in [
            (b"HTTP/1.1 200 OK\r\n".as_slice(), PortProtocol::Page),
            (&[0x15, 3, 1, 0, 2, 2, 70], PortProtocol::Tls),
            (&[0, 0, 6, 4, 0, 0, 0, 0, 0], PortProtocol::Plain),
            (b"SSH-2.0", PortProtocol::Unknown),
            (b"", PortProtocol::Unknown),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (found, ()) = tokio::join!(look_at(&address), async {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut asked = [0; 64];
                assert!(socket.read(&mut asked).await.unwrap() > 0);
                socket.write_all(answer).await.unwrap();
            });
            assert_eq!(found, expected, "{answer:?}");
        }
        assert_eq!(look_at("127.0.0.1:1").await, PortProtocol::Unknown);
    }
}
