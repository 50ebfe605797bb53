//! HTTP/2 by hand (RFC 9113), for callers that do what no library does: stop half-way, or never read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LIMIT;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that has said hello.
pub(super) struct Raw(TcpStream);

/// A gRPC message with its prefix.
pub(super) fn prefixed(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A header that is not indexed, its name and value as they are (RFC 7541, 6.2.2).
fn header(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
}

impl Raw {
    pub(super) async fn connect(addr: SocketAddr) -> Self {
        let mut raw = Self(TcpStream::connect(addr).await.unwrap());
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).await.unwrap();
    }

    /// Begins a call.
    pub(super) async fn call(&mut self, stream: u32, method: &str) {
        let mut block = Vec::new();
        let path = format!("/petnet.simple.v1.SimpleRequestServer/{method}");
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "petnet"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("petnet-wait-ms", "9000"),
        ] {
            header(name, value, &mut block);
        }
        self.frame(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Some bytes of its request.
    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], is_last: bool) {
        for (at, some) in bytes.chunks(16 << 10).enumerate() {
            let last = is_last && (at + 1) * (16 << 10) >= bytes.len();
            self.frame(DATA, u8::from(last) * END_STREAM, stream, some).await;
        }
    }

    /// Whether the other side has closed it; reads what is there.
    pub(super) async fn is_closed_within(&mut self, limit: Duration) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(limit, self.0.read_to_end(&mut rest)).await.is_ok()
    }

    /// Waits until the other side is gone, without reading anything: a write fails then.
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
