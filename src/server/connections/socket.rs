//! The bytes of a connection: plain, or in TLS, whose handshake runs in the connection's own task.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use petnet_storage::PartyId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::either::Either;

use super::ConnectionInfo;
use crate::rules::access::Caller;
use crate::rules::identity::named;
use crate::tls::trust::Trust;

/// A socket and its state.
pub(super) enum Socket {
    /// The client has not proved yet who it is.
    Handshake(Box<Accept<TcpStream>>, Arc<Trust>),
    Open(Box<Either<TcpStream, TlsStream<TcpStream>>>),
    Failed,
}

impl Socket {
    /// Uses TLS if `trust` has it; otherwise `info` is told at once that nothing is proved.
    pub(super) fn new(socket: TcpStream, trust: Arc<Trust>, info: &ConnectionInfo) -> Self {
        let Some(tls) = &trust.tls else {
            // Only callers that prove something, or could, are counted.
            drop(info.set_caller(Caller::Anyone));
            return Self::Open(Box::new(Either::Left(socket)));
        };
        let accept = TlsAcceptor::from(tls.server.clone()).accept(socket);
        Self::Handshake(Box::new(accept), trust)
    }

    #[cfg(test)]
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Open(open) => match &**open {
                Either::Left(socket) => Some(socket),
                Either::Right(_) => None,
            },
            _ => None,
        }
    }

    /// Drives the handshake to its end; `info` is then told who the caller is.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>, info: &ConnectionInfo) -> Poll<io::Result<()>> {
        let Self::Handshake(accept, trust) = self else { return Poll::Ready(Ok(())) };
        let done = ready!(Pin::new(accept.as_mut()).poll(cx));
        let trust = trust.clone();
        let opened = done.and_then(|stream| {
            let caller = caller(&stream, &trust).map_err(io::Error::other)?;
            info.set_caller(caller).map_err(io::Error::other)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                *self = Self::Open(Box::new(Either::Right(stream)));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                *self = Self::Failed;
                Poll::Ready(Err(error))
            }
        }
    }

    /// The stream of an open socket; an error for any other.
    fn stream(&mut self) -> io::Result<Pin<&mut Either<TcpStream, TlsStream<TcpStream>>>> {
        match self {
            Self::Open(open) => Ok(Pin::new(open.as_mut())),
            Self::Handshake(..) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Handshake(..) => Poll::Ready(Ok(())),
            _ => self.stream()?.poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Nothing was said yet that could be ended in order.
            Self::Handshake(..) | Self::Failed => Poll::Ready(Ok(())),
            Self::Open(open) => Pin::new(open.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Who the other side proved to be.
fn caller(stream: &TlsStream<TcpStream>, trust: &Trust) -> Result<Caller, String> {
    let certificates = stream.get_ref().1.peer_certificates();
    let Some(certificate) = certificates.and_then(<[_]>::first) else { return Ok(Caller::Unnamed) };
    let party: PartyId = named(certificate, &trust.parties).map_err(|why| why.to_string())?;
    Ok(if party == trust.own { Caller::Own } else { Caller::Peer(party) })
}
