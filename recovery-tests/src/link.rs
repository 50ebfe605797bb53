//! A network link that can be broken: a TCP proxy in front of a gateway.
//!
//! Bytes that a broken link holds back are not lost to the connection, as TCP would repeat them: they go on when the
//! link is open again, unless it was cut in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// Bytes taken at a time; small, so that a break falls between the bytes of a message.
const PIECE: usize = 8 << 10;
/// What the kernel may hold of a connection in each direction at either end; a slow line holds little. (The kernel
/// doubles it for its own needs.)
const BUFFER: u32 = 32 << 10;

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
    /// Each connection is reset when so many bytes went towards the gateway over it.
    Short(u64),
    /// Nothing passes over those of the connections that were there before this one; see [`Link::freeze`].
    Frozen(u64),
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
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

/// What crossed a link so far.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    /// Bytes towards the gateway.
    passed: AtomicU64,
}

/// One direction of one connection.
struct Way {
    direction: Direction,
    /// Of the connection, counted from 0.
    number: u64,
    mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
}

/// The connection has carried all that it may.
struct Severed;

impl Link {
    /// An open link to a port of this machine.
    pub fn to(gateway: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Connections have it from the socket that listens.
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.set_send_buffer_size(BUFFER).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(128).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, changes) = watch::channel(Mode::Open);
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(serve(listener, gateway, changes, counts.clone()));
        Self { port, mode, counts, task }
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
        self.counts.passed.load(Ordering::Relaxed)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// The connections that are there pass nothing any more, and are not reset; new ones pass everything.
    pub fn freeze(&self) {
        self.set(Mode::Frozen(self.connections()));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, gateway: u16, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => {
                let number = counts.connections.fetch_add(1, Ordering::Relaxed);
                let way =
                    |direction| Way { direction, number, mode: mode.clone(), counts: counts.clone() };
                let ways = [Direction::There, Direction::Back].map(way);
                connections.spawn(connection(near, gateway, ways, mode.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until both ends are done or the link is cut.
async fn connection(near: TcpStream, gateway: u16, [there, back]: [Way; 2], mut mode: watch::Receiver<Mode>) {
    // What is dropped is reset, as a cut does it.
    near.set_zero_linger().ok();
    near.set_nodelay(true).ok();
    if *mode.borrow_and_update() == Mode::Cut {
        return;
    }
    let far = tokio::select! {
        far = connect(gateway) => far,
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => return,
    };
    let Ok(far) = far else { return };
    far.set_zero_linger().ok();
    far.set_nodelay(true).ok();
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = async { tokio::try_join!(pump(from_near, to_far, there), pump(from_far, to_near, back)) } => {}
    }
}

async fn connect(gateway: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.connect(([127, 0, 0, 1], gateway).into()).await
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: Way) -> Result<(), Severed> {
    let (mut piece, mut crossed) = ([0; PIECE], 0);
    let there = way.direction == Direction::There;
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            Ok(_) = way.mode.wait_for(|mode| *mode == Mode::HalfClosed), if there => Ok(0),
        };
        let Ok(len) = read else { return Ok(()) };
        if len == 0 || !way.may_pass().await {
            to.shutdown().await.ok();
            return Ok(());
        }
        let mode = *way.mode.borrow();
        match mode {
            Mode::Slow(rate) => sleep(Duration::from_secs(len as u64) / rate as u32).await,
            Mode::Short(limit) if there && crossed >= limit => return Err(Severed),
            _ => {}
        }
        if to.write_all(&piece[..len]).await.is_err() {
            return Ok(());
        }
        crossed += len as u64;
        if there {
            way.counts.passed.fetch_add(len as u64, Ordering::Relaxed);
        }
    }
}

impl Way {
    /// Waits until bytes may pass; false when none will any more.
    async fn may_pass(&mut self) -> bool {
        let (direction, number) = (self.direction, self.number);
        let decided = self.mode.wait_for(|mode| match mode {
            Mode::Open | Mode::Slow(_) | Mode::HalfClosed | Mode::Cut | Mode::Short(_) => true,
            Mode::OneWay => direction == Direction::There,
            Mode::Frozen(below) => number >= *below,
            Mode::BlackHole => false,
        });
        match decided.await.as_deref() {
            Ok(Mode::HalfClosed) => direction == Direction::Back,
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to a server that sends everything back, and a connection over it.
    async fn echo() -> (Link, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::to(server.local_addr().unwrap().port());
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

    #[tokio::test]
    async fn a_short_link_resets_a_connection_that_carried_enough_and_takes_the_next() {
        let (link, mut stream) = echo().await;
        link.set(Mode::Short(2));
        stream.write_all(b"b").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'b');
        stream.write_all(b"c").await.unwrap();
        assert!(stream.read_u8().await.is_err());
        let mut new = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
        new.write_all(b"d").await.unwrap();
        assert_eq!(new.read_u8().await.unwrap(), b'd');
        assert_eq!((link.passed(), link.connections()), (3, 2));
    }

    #[tokio::test]
    async fn a_freeze_holds_the_connections_that_are_there_and_no_new_ones() {
        let (link, mut stream) = echo().await;
        link.freeze();
        stream.write_all(b"b").await.unwrap();
        let mut new = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
        new.write_all(b"c").await.unwrap();
        assert_eq!(new.read_u8().await.unwrap(), b'c');
        tokio::select! {
            biased;
            _ = stream.read_u8() => panic!("it passed"),
            () = tokio::task::yield_now() => {}
        }
        link.set(Mode::Open);
        assert_eq!(stream.read_u8().await.unwrap(), b'b');
    }
}
