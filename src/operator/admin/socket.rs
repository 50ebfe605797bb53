//! The Unix socket of the admin service: for the gateway's own user only, and removed when the gateway ends.
//!
//! Invariant: the file has mode 0600 before anybody can connect: it is bound under another name, and listens and gets its
//! own name only afterwards. A socket that a killed gateway left behind is replaced; one that answers is left alone.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::AdminApi;
use crate::proto::admin::admin_server::AdminServer;
use crate::wire::admin_socket;

/// Name of the socket until it has its mode; as long as its own.
const UNFINISHED: &str = ".admin.new";
/// Most connections at a time; further ones wait.
const CONNECTIONS: usize = 16;
/// Most connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 16;
/// A connection that has said nothing for this long is closed, since it occupies a seat.
const HELLO: Duration = Duration::from_secs(2);
/// A connection of this age takes no further calls, and is closed if it is idle. Commands are short, and open another one.
const AGE: Duration = Duration::from_mins(10);
/// Most calls of one connection at a time.
const CALLS: u32 = 32;
/// How long calls may take to end at shutdown.
const END: Duration = Duration::from_millis(500);
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket, and the service on it once started.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    folder: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl AdminSocket {
    /// Binds the socket in a folder and serves on it from now on.
    pub(crate) fn start(folder: &Path, api: AdminApi) -> io::Result<Self> {
        let listener = bind(folder)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            let server = Server::builder()
                .max_concurrent_streams(CALLS)
                .max_connection_age(AGE)
                .add_service(AdminServer::new(api))
                .serve_with_incoming_shutdown(connections(listener), stopped);
            if let Err(error) = server.await {
                tracing::error!(%error, "the admin socket is served no more");
            }
        });
        Ok(Self { folder: folder.into(), stop, task })
    }

    /// Ends the service and removes the file.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        if let Ok((path, _folder)) = admin_socket::path(&self.folder)
            && let Err(why) = std::fs::remove_file(path)
        {
            tracing::debug!(%why, "the admin socket is gone already");
        }
        // A connection that hangs must not hold up the shutdown.
        if tokio::time::timeout(END, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn bind(folder: &Path) -> io::Result<UnixListener> {
    let (path, _folder) = admin_socket::path(folder)?;
    if StdStream::connect(&path).is_ok() {
        let what = format!("another gateway serves on {}", folder.join(admin_socket::NAME).display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    let unfinished = path.with_file_name(UNFINISHED);
    match std::fs::remove_file(&unfinished) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&unfinished)?)?;
    std::fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    std::fs::rename(&unfinished, &path)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<SeatedSocket>> {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    unfold((listener, seats), |(listener, seats)| async move {
        // The semaphore is never closed.
        let seat = seats.clone().acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection to the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let hello = Some(Box::pin(tokio::time::sleep(HELLO)));
        Some((Ok(SeatedSocket { stream, hello, _seat: seat }), (listener, seats)))
    })
}

/// A connection with its seat.
struct SeatedSocket {
    stream: UnixStream,
    /// Set until the connection says something.
    hello: Option<Pin<Box<Sleep>>>,
    _seat: OwnedSemaphorePermit,
}

impl Connected for SeatedSocket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for SeatedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.hello = None;
        } else if let Some(hello) = &mut this.hello
            && hello.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for SeatedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
