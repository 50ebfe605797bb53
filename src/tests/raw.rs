//! HTTP/2 by hand (RFC 9113), for callers that do what no library does: stop half-way, or never read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LIMIT;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Error code of a call that is given up (RFC 9113, 7).
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A socket that HTTP/2 can use.
pub(super) trait RawSocket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> RawSocket for S {}

/// A connection that has said hello.
pub(super) struct RawConnection(Box<dyn RawSocket>);

/// A gRPC message with its prefix.
pub(super) fn prefixed(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Writes a header that is not indexed, with name and value as they are (RFC 7541, 6.2.2).
fn header(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call.
fn beginning(stream: u32, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "petnet"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("petnet-wait-ms", "50000"),
    ] {
        header(name, value, &mut block);
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

impl RawConnection {
    pub(super) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub(super) async fn over(socket: impl RawSocket + 'static) -> Self {
        let mut raw = Self(Box::new(socket));
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload)).await;
    }

    /// Writes and flushes, because TLS may hold some bytes back.
    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Acknowledges the settings of the other side; waits until its windows are large.
    pub(super) async fn agree(&mut self) {
        while self.next().await.expect("it says something").0 != SETTINGS {}
        self.frame(SETTINGS, ACK, 0, &[]).await;
        while self.next().await.expect("it says how much it takes").0 != WINDOW_UPDATE {}
    }

    /// Begins a call.
    pub(super) async fn call(&mut self, stream: u32, method: &str) {
        let path = format!("/petnet.simple.v1.SimpleRequestServer/{method}");
        self.write(&beginning(stream, &path)).await;
    }

    /// Begins a call of any service.
    pub(super) async fn call_path(&mut self, stream: u32, path: &str) {
        self.write(&beginning(stream, path)).await;
    }

    /// Begins a call and sends part of its request, as far as the other side takes it. False if the other side is gone.
    pub(super) async fn press(&mut self, stream: u32, method: &str, request: &[u8]) -> bool {
        let mut bytes = beginning(stream, &format!("/petnet.simple.v1.SimpleRequestServer/{method}"));
        for some in request.chunks(16 << 10) {
            bytes.extend(frame(DATA, 0, stream, some));
        }
        self.0.write_all(&bytes).await.is_ok()
    }

    /// Begins calls with a request and gives each of them up, all in one write. False if the other side is gone.
    pub(super) async fn give_up(
        &mut self,
        streams: impl Iterator<Item = u32>,
        method: &str,
        request: &[u8],
    ) -> bool {
        let path = format!("/petnet.simple.v1.SimpleRequestServer/{method}");
        let mut bytes = Vec::new();
        for stream in streams {
            bytes.extend(beginning(stream, &path));
            bytes.extend(frame(DATA, END_STREAM, stream, request));
            bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        }
        self.0.write_all(&bytes).await.is_ok()
    }

    /// The next frame: kind, stream, payload. `None` if the connection is closed.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The first bytes of the answer to a call; the rest is lost.
    pub(super) async fn answer(&mut self, stream: u32) -> Vec<u8> {
        let answer = async {
            while let Some((kind, of, payload)) = self.next().await {
                assert_ne!(kind, GOAWAY, "the connection is cut");
                if (kind, of) == (DATA, stream) {
                    return payload;
                }
            }
            panic!("the connection is closed");
        };
        tokio::time::timeout(LIMIT, answer).await.expect("it is answered")
    }

    /// Whether the connection is cut with the reason that we flood the other side.
    pub(super) async fn is_told_to_calm_down(&mut self) -> bool {
        let told = async {
            let mut told = false;
            while let Some((kind, _, payload)) = self.next().await {
                told |= kind == GOAWAY && payload[4..8] == ENHANCE_YOUR_CALM.to_be_bytes();
            }
            told
        };
        tokio::time::timeout(LIMIT, told).await.expect("it is cut")
    }

    /// Sends some bytes of a call's request.
    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], is_last: bool) {
        for (at, some) in bytes.chunks(16 << 10).enumerate() {
            let last = is_last && (at + 1) * (16 << 10) >= bytes.len();
            self.frame(DATA, u8::from(last) * END_STREAM, stream, some).await;
        }
    }

    /// Whether the other side closes the connection within that time; reads what is there.
    pub(super) async fn is_closed_within(&mut self, limit: Duration) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(limit, self.0.read_to_end(&mut rest)).await.is_ok()
    }

    /// Waits until the other side is gone, without reading anything: a write then fails.
    pub(super) async fn is_gone(&mut self) {
        let gone = async {
            while self.0.write_all(&[0; 9]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("it was cut");
    }
}

/// A payload of zeros.
pub(super) fn zeros(len: u64) -> Bytes {
    Bytes::from(vec![0; len as usize])
}
