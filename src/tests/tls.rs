//! What tests of TLS share: an authority per party, gateways with it, and callers with any certificate.

use std::path::Path;

use hyper_util::rt::TokioIo;
use rcgen::SanType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use time::{Duration as Span, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;

use super::*;
use crate::tls::certs::make::{Authority, CertificateAndKey, GatewayNames, WantedCertificate};
use crate::tls::client_auth::TlsClientAuth;
use crate::tls::{CERTIFICATE, KEY, OwnCertificate};

/// A party with an authority of its own.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) authority: Authority,
}

impl Member {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, authority: Authority::new(&party(name), 10).unwrap() }
    }

    /// A certificate of a gateway on this machine.
    pub(super) fn gateway(&self) -> CertificateAndKey {
        let names = GatewayNames { dns: vec!["localhost".into()], ip: vec!["127.0.0.1".parse().unwrap()] };
        self.authority.issue(&WantedCertificate::gateway(&party(self.name), &names, 10).unwrap()).unwrap()
    }

    /// The certificate of a program.
    pub(super) fn program(&self) -> CertificateAndKey {
        self.authority.issue(&WantedCertificate::program(&party(self.name), 10).unwrap()).unwrap()
    }

    /// A certificate with these names, signed by this party's authority.
    pub(super) fn with_names(&self, names: &[&str]) -> CertificateAndKey {
        let name = |name: &&str| {
            if name.contains("://") {
                SanType::URI((*name).try_into().unwrap())
            } else {
                SanType::DnsName((*name).try_into().unwrap())
            }
        };
        let from = OffsetDateTime::now_utc() - Span::HOUR;
        self.with(names.iter().map(name).collect(), from, from + Span::DAY)
    }

    pub(super) fn with(
        &self,
        names: Vec<SanType>,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> CertificateAndKey {
        self.authority
            .issue(&WantedCertificate { name: "test".into(), names, serves: true, from, until })
            .unwrap()
    }

    pub(super) fn roots(&self) -> String {
        self.authority.pair().certificate
    }

    /// Its entry in a party file.
    pub(super) fn entry(&self, url: &str, whitelist: &[&str]) -> (petnet_storage::PartyId, Vec<Connection>) {
        let connection = Connection {
            kind: ConnectionType::Direct,
            url: url.into(),
            certificates: self.roots(),
            whitelist: whitelist.iter().map(ToString::to_string).collect(),
        };
        (party(self.name), vec![connection])
    }
}

/// Writes a certificate and its key where a gateway looks for them.
pub(super) fn write_pair(folder: &Path, pair: &CertificateAndKey) {
    std::fs::write(folder.join(CERTIFICATE), &pair.certificate).unwrap();
    std::fs::write(folder.join(KEY), &pair.key).unwrap();
}

/// Settings of a gateway that serves TLS with `pair`.
pub(super) fn tls_settings(
    name: &str,
    folder: &Path,
    pair: &CertificateAndKey,
    auth: TlsClientAuth,
) -> Settings {
    write_pair(folder, pair);
    let own_certificate = OwnCertificate::load(folder).unwrap();
    assert!(own_certificate.is_some());
    Settings { pem_path: folder.into(), own_certificate, tls_client_auth: auth, ..settings(name) }
}

/// What a caller shows.
#[derive(Clone, Copy)]
pub(super) enum CallerProof<'a> {
    Plain,
    Nothing,
    Certificate(&'a CertificateAndKey),
}

/// A channel to `addr`, which must prove that it is the gateway of `server`. Fails if there is no connection.
pub(super) async fn call(
    addr: SocketAddr,
    server: &Member,
    shows: CallerProof<'_>,
) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let Some(config) = client_config(server, shows) else {
        return endpoint.connect().await.map_err(|e| e.to_string());
    };
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let socket = TcpStream::connect(addr).await?;
            let name = ServerName::try_from("localhost").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, socket).await?))
        }
    });
    endpoint.connect_with_connector(connect).await.map_err(|e| format!("{e:?}"))
}

/// A connection on which nothing was said yet; `addr` must prove that it is the gateway of `server`.
pub(super) async fn open(addr: SocketAddr, server: &Member, shows: CallerProof<'_>) -> TlsStream<TcpStream> {
    let config = client_config(server, shows).expect("TLS");
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

fn client_config(server: &Member, shows: CallerProof<'_>) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.roots().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        CallerProof::Plain => return None,
        CallerProof::Nothing => builder.with_no_client_auth(),
        CallerProof::Certificate(pair) => {
            let chain =
                CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}
