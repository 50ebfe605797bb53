//! What a flood of connections that say nothing, or stop in the middle of a handshake, costs a client that behaves:
//! one gateway with TLS, its client, and the flood from a process of its own.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use petnet::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
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
