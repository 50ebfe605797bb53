//! A network link that can be broken: a TCP proxy in front of a gateway.
//!
//! Bytes that a broken link holds back are not lost to the connection, as TCP would repeat them: they go on when the
//! link is open again, unless it was cut in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// Bytes taken at a time; small, so that a break falls between the bytes of a message.
const PIECE: usize = 8 << 10;

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Open,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay, nothing passes.
    BlackHole,
    /// Only towards the gateway: requests arrive, answers do not.
    OneWay,
    /// So many bytes a second, in each direction of each connection.
    Slow(u64),
    /// No more comes towards the gateway, and it is told so (FIN); answers pass.
    HalfClosed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

/// A link to one gateway. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    mode: watch::Sender<Mode>,
    passed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Link {
    /// An open link to a port of this machine.
    pub async fn to(gateway: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, changes) = watch::channel(Mode::Open);
        let passed = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, gateway, changes, passed.clone()));
        Self { port, mode, passed, task }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks or mends it.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Bytes that went towards the gateway so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, gateway: u16, mode: watch::Receiver<Mode>, passed: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => {
                connections.spawn(connection(near, gateway, mode.clone(), passed.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until both ends are done or the link is cut.
async fn connection(near: TcpStream, gateway: u16, mut mode: watch::Receiver<Mode>, passed: Arc<AtomicU64>) {
    // What is dropped is reset, as a cut does it.
    near.set_zero_linger().ok();
    near.set_nodelay(true).ok();
    if *mode.borrow_and_update() == Mode::Cut {
        return;
    }
    let far = tokio::select! {
        far = TcpStream::connect(("127.0.0.1", gateway)) => far,
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => return,
    };
    let Ok(far) = far else { return };
    far.set_zero_linger().ok();
    far.set_nodelay(true).ok();
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    let mut cut = mode.clone();
    let back = Arc::new(AtomicU64::new(0));
    tokio::select! {
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = async {
            tokio::join!(
                pump(from_near, to_far, Direction::There, mode.clone(), &passed),
                pump(from_far, to_near, Direction::Back, mode, &back),
            )
        } => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut mode: watch::Receiver<Mode>,
    passed: &AtomicU64,
) {
    let mut piece = [0; PIECE];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            Ok(_) = mode.wait_for(|mode| *mode == Mode::HalfClosed), if direction == Direction::There => Ok(0),
        };
        let Ok(len) = read else { return };
        if len == 0 || !may_pass(direction, &mut mode).await {
            to.shutdown().await.ok();
            return;
        }
        let slow = *mode.borrow();
        if let Mode::Slow(rate) = slow {
            sleep(Duration::from_secs(len as u64) / rate as u32).await;
        }
        if to.write_all(&piece[..len]).await.is_err() {
            return;
        }
        passed.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Waits until bytes may pass; false when none will any more.
async fn may_pass(direction: Direction, mode: &mut watch::Receiver<Mode>) -> bool {
    let decided = mode.wait_for(|mode| match mode {
        Mode::Open | Mode::Slow(_) | Mode::HalfClosed | Mode::Cut => true,
        Mode::OneWay => direction == Direction::There,
        Mode::BlackHole => false,
    });
    match decided.await.as_deref() {
        Ok(Mode::HalfClosed) => direction == Direction::Back,
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to a server that sends everything back, and a connection over it.
    async fn echo() -> (Link, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::to(server.local_addr().unwrap().port()).await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        let mut stream = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        (link, stream)
    }

    #[tokio::test]
    async fn what_is_held_back_goes_on_when_the_link_is_open_again() {
        let (link, mut stream) = echo().await;
        for mode in [Mode::BlackHole, Mode::OneWay] {
            let before = link.passed();
            link.set(mode);
            stream.write_all(b"b").await.unwrap();
            if mode == Mode::OneWay {
                crate::until("the request has passed", async || (link.passed() > before).then_some(())).await;
            }
            tokio::select! {
                biased;
                _ = stream.read_u8() => panic!("it passed"),
                () = tokio::task::yield_now() => {}
            }
            link.set(Mode::Open);
            assert_eq!(stream.read_u8().await.unwrap(), b'b');
        }
    }

    #[tokio::test]
    async fn a_cut_resets_old_and_new_connections() {
        let (link, mut stream) = echo().await;
        link.set(Mode::Cut);
        assert!(stream.read_u8().await.is_err());
        let mut new = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
        assert!(new.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_half_closed_link_ends_what_is_sent_and_no_more() {
        let (link, mut stream) = echo().await;
        link.set(Mode::HalfClosed);
        // The echo sees the end of its input, and ends its output.
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}
