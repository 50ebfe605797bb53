//! What a flood of connections that say nothing, or stop in the middle of a handshake, and a caller that holds all that it
//! may, cost a client that behaves: one gateway with TLS, its client, and the flood from a process of its own.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use petnet::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use crate::clients::{Client, PARTIES, send};

/// The flag with which this program floods: `--flood=ADDRESS`.
pub(crate) const FLOOD: &str = "--flood=";
/// Connections that are opened and say nothing.
const SILENT: usize = 10_000;
/// Half handshakes, one after the other, a second.
const HALVES: u32 = 500;
/// The beginning of a TLS `ClientHello` (RFC 8446, 4.1.2) that never goes on.
const HALF: [u8; 6] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

/// Floods until it is killed; says on stdout when all silent connections are open.
pub(crate) fn flood(address: &str) -> ! {
    let address: SocketAddr = address.parse().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
    // Those that the gateway closes stay closed.
    let silent: Vec<_> = (0..SILENT).filter_map(|_| connect().ok()).collect();
    println!("{} silent connections", silent.len());
    let mut next = Instant::now();
    let mut last = Vec::new();
    loop {
        if let Ok(mut half) = connect() {
            drop(half.write_all(&HALF));
            last.push(half);
        }
        if last.len() > 2 * HALVES as usize {
            last.drain(..HALVES as usize);
        }
        next += Duration::from_secs(1) / HALVES;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// A running flood.
pub(crate) struct Flood(Child);

impl Flood {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command.arg(format!("{FLOOD}{address}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut flood = Self(child);
        let mut said = String::new();
        let stdout = flood.0.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
        assert!(said.contains("silent"), "the flood did not begin");
        flood
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Makes certificates of `party_a` in a folder.
pub(crate) fn certificates(folder: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petnet"));
    command.args(["certs", "init", "--party", PARTIES[0], "--ip", "127.0.0.1", "--out"]).arg(folder);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
}

/// TLS to a gateway of `party_a`, as a program of it.
#[derive(Clone)]
struct Connector(Arc<ClientConfig>, SocketAddr);

impl Connector {
    fn new(folder: &Path, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).unwrap()).unwrap();
        let chain = CertificateDer::pem_file_iter(folder.join("client.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots);
        let mut config = config.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(Arc::new(config), address)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self(config, address) = self.clone();
        Box::pin(async move {
            let socket = tokio::net::TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, socket).await?))
        })
    }
}

/// A client over TLS.
pub(crate) async fn client(folder: &Path, address: SocketAddr) -> Client {
    let connector = Connector::new(folder, address);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.origin(format!("https://{address}").parse().unwrap());
    SimpleRequestServerClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// Connections that hold what they may, and the memory of calls with it: more than the share of callers without a
/// certificate, of which one connection's window takes 16 MiB.
const HOLDERS: usize = 4;
/// Bytes that each sends of a message that it says to be so much larger.
const HELD: usize = 15 << 20;
const ANNOUNCED: u32 = 250 << 20;

/// An HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a delivery, none of them in a table (RFC 7541, 6.2.2).
fn delivery() -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/petnet.simple.v1.SimpleRequestServer/ServerSimpleSend"),
        (":authority", "petnet"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Reads up to a frame of this kind.
async fn until(socket: &mut TlsStream<tokio::net::TcpStream>, kind: u8) {
    let mut head = [0; 9];
    while head[3] != kind {
        socket.read_exact(&mut head).await.unwrap();
        let [a, b, c, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        socket.read_exact(&mut payload).await.unwrap();
    }
}

/// A caller without a certificate that sends as much of large messages as it may, and then nothing; until dropped.
pub(crate) async fn hold(address: SocketAddr) -> tokio::task::JoinSet<()> {
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..HOLDERS {
        let mut socket = anybody(address).await;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        socket.write_all(&bytes).await.unwrap();
        // The windows are large when what it says is agreed to, and it has said how much it takes.
        until(&mut socket, 4).await;
        socket.write_all(&frame(4, 1, 0, &[])).await.unwrap();
        until(&mut socket, 8).await;
        let mut bytes = Vec::new();
        bytes.extend(frame(1, 4, 1, &delivery()));
        let mut prefix = vec![0];
        prefix.extend(ANNOUNCED.to_be_bytes());
        bytes.extend(frame(0, 0, 1, &prefix));
        socket.write_all(&bytes).await.unwrap();
        let part = frame(0, 0, 1, &[7; 16 << 10]);
        for _ in 0..HELD / (16 << 10) {
            socket.write_all(&part).await.unwrap();
        }
        // What the gateway says is read, and its questions are not answered.
        held.spawn(async move {
            drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await);
        });
    }
    held
}

/// TLS without a certificate, believing everybody.
async fn anybody(address: SocketAddr) -> TlsStream<tokio::net::TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Believing(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().dangerous().with_custom_certificate_verifier(verifier);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// Who floods does not ask whom.
#[derive(Debug)]
struct Believing(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `count` sends of 64 B, a millisecond apart: how long each took.
pub(crate) async fn sends(mut client: Client, first: usize, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for n in first..first + count {
        let start = Instant::now();
        send(&mut client, PARTIES[1], n.to_string(), bytes::Bytes::from_static(&[7; 64])).await;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times
}
