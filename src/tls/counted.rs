//! A connection that counts the bytes that cross it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Number of bytes read from and written to the connections that share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BytesMoved(Arc<AtomicU64>);

impl BytesMoved {
    /// Adds to the number.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The number of bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that the kernel takes from us before it has sent them. If it took the megabytes that it otherwise would, nothing
/// would seem to move for minutes on a slow link; bytes that are sent but not acknowledged, which a fast link needs, do not
/// count.
const UNSENT: u32 = 64 << 10;

/// Makes the kernel take bytes only as the connection sends them, so that what it takes shows how the connection moves.
pub(crate) fn takes_as_it_sends(socket: &tokio::net::TcpStream) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "what the kernel has not sent yet is not bounded");
    }
}

/// A check that is made before bytes are written.
#[derive(Clone, Default)]
pub(crate) struct WriteGate(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl WriteGate {
    /// Lets bytes pass as long as `lets_pass` returns true. It must return at once.
    pub(crate) fn new(lets_pass: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lets_pass)))
    }

    fn lets_pass(&self) -> bool {
        self.0.as_ref().is_none_or(|lets_pass| lets_pass())
    }
}

impl std::fmt::Debug for WriteGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({})", self.lets_pass())
    }
}

/// A connection that counts its bytes and asks its gate before it writes.
#[derive(Debug)]
pub(crate) struct CountedConnection<T> {
    inner: T,
    moved: BytesMoved,
    gate: WriteGate,
}

impl<T> CountedConnection<T> {
    pub(super) fn new(inner: T, moved: BytesMoved, gate: WriteGate) -> Self {
        Self { inner, moved, gate }
    }

    /// The last check before bytes leave the process, which may have stood still for hours just before.
    fn may_write(&self) -> io::Result<()> {
        if self.gate.lets_pass() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "another gateway of our party delivers to this peer now",
        ))
    }

    fn count(&self, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &done {
            self.moved.add(*bytes);
        }
        done
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CountedConnection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.moved.add(buf.filled().len() - before);
        done
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CountedConnection<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_write()?;
        let done = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        let done = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_are_written_while_the_gate_lets_them_pass_and_not_one_more() {
        let (near, mut far) = tokio::io::duplex(64);
        let is_open = Arc::new(AtomicBool::new(true));
        let gate = WriteGate::new({
            let is_open = is_open.clone();
            move || is_open.load(Ordering::SeqCst)
        });
        let mut counted = CountedConnection::new(near, BytesMoved::default(), gate);
        counted.write_all(b"before").await.unwrap();
        is_open.store(false, Ordering::SeqCst);
        let refused = counted.write_all(b"after").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        drop(counted);
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"before");
    }
}
