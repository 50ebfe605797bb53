//! TLS on both sides: what we show, and whom we believe.
//!
//! Nobody is believed because some well-known authority signed: a certificate counts for a party only if that party's own
//! roots (`certificates` in the party file) signed it. With one pool for all, the authority of any party could mint the
//! certificates of any other. `incoming` decides about callers, `outgoing` about those whom we call.
//!
//! There is no resumption of sessions: it would let in a caller that was known under an older party file.

mod believed;
pub(crate) mod certs;
pub mod client_auth;
mod clock;
pub(crate) mod connector;
pub(crate) mod counted;
mod incoming;
mod myself;
mod outgoing;
mod own;
pub(crate) mod trust;
pub(crate) mod words;

use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use believed::{CertificateUse, disbelieved};
pub(crate) use clock::complaint as clock_complaint;
pub(crate) use myself::myself;
pub use own::{CERTIFICATE, KEY, OwnCertificate};

use crate::rules::identity::host;
use crate::rules::parties::{Connection, Parties};
use crate::tls::certs::pem;
use crate::tls::client_auth::TlsClientAuth;

/// The name of HTTP/2 in a handshake.
const HTTP2: &[u8] = b"h2";

/// TLS with one version of our certificate and the party file.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// Configuration for connections from callers.
    pub(crate) server: Arc<ServerConfig>,
    own: Arc<SingleCertAndKey>,
    parties: Arc<Parties>,
}

impl Tls {
    /// Sets up TLS. Every party's roots must be readable: the party file was checked.
    pub(crate) fn new(
        own: &OwnCertificate,
        parties: Arc<Parties>,
        auth: TlsClientAuth,
    ) -> Result<Self, String> {
        let key = Arc::new(SingleCertAndKey::from(own.certified_key()));
        let verifier = incoming::CallerVerifier::new(parties.clone(), auth)?;
        let builder = ServerConfig::builder_with_details(provider(), clock::system())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut server =
            builder.with_client_cert_verifier(Arc::new(verifier)).with_cert_resolver(key.clone());
        server.alpn_protocols = vec![HTTP2.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), own: key, parties })
    }

    /// Configuration for calling `peer` over `connection`: the other side must be that party.
    pub(crate) fn client(
        &self,
        peer: &PartyId,
        connection: &Connection,
    ) -> Result<Arc<ClientConfig>, String> {
        let verifier = outgoing::PeerVerifier::new(peer.clone(), connection, self.parties.clone())?;
        let builder = ClientConfig::builder_with_details(provider(), clock::system())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut client = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        client.alpn_protocols = vec![HTTP2.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(client))
    }
}

/// Configuration for a program of a party: it believes the gateways that `roots` signed, and shows `pair` (certificate and
/// key). All PEM.
pub(crate) fn program(roots: &str, pair: (&[u8], &[u8])) -> Result<Arc<ClientConfig>, String> {
    let store = root_store(self::roots(roots)?)?;
    let chain = pem::certificates(pair.0)?;
    let key = pem::private_key(pair.1)?;
    let first = chain[0].clone();
    let mut client = ClientConfig::builder_with_details(provider(), clock::system())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(store)
        .with_client_auth_cert(chain, key)
        .map_err(|why| format!("the private key {}", words::of_key(&why, &first)))?;
    client.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(client))
}

/// Named explicitly everywhere: with two providers in the dependency tree, rustls cannot choose, and panics.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Checks that `key` belongs to the first certificate in the PEM text.
pub(crate) fn key_fits(pem: &[u8], key: PrivateKeyDer<'static>) -> Result<(), String> {
    let chain = pem::certificates(pem)?;
    let first = chain[0].clone();
    CertifiedKey::from_der(chain, key, &provider())
        .map(drop)
        .map_err(|why| format!("it {}", words::of_key(&why, &first)))
}

/// The certificates in PEM text, each of which can be a root.
pub(crate) fn roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = pem::certificates(pem.as_bytes())?;
    let mut store = RootCertStore::empty();
    for (n, certificate) in certificates.iter().enumerate() {
        store.add(certificate.clone()).map_err(|_| {
            format!(
                "certificate {} of {} cannot be a root: it is no X.509 certificate that can be read",
                n + 1,
                certificates.len()
            )
        })?;
    }
    Ok(certificates)
}

fn root_store(roots: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|why| words::of_tls(&why))?;
    }
    Ok(store)
}

/// The roots of some connections of a party, taken together; `None` if there are none.
fn store<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Result<Option<RootCertStore>, String> {
    let mut found = Vec::new();
    for connection in connections {
        if !connection.certificates.trim().is_empty() {
            found.extend(roots(&connection.certificates)?);
        }
    }
    Ok(Some(root_store(found)?).filter(|store| !store.is_empty()))
}

/// How a server's certificate is judged by a party's roots. We judge peers this way, and ourselves as they do.
fn of_servers(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| e.to_string())
}

/// How a caller's certificate is judged by a party's roots.
fn of_callers(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, String> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| e.to_string())
}

/// The name for which the certificate of the server at a url is checked. Addresses have one, too.
pub(crate) fn server_name(url: &str) -> Result<ServerName<'static>, String> {
    let name = host(url).unwrap_or_default().to_owned();
    ServerName::try_from(name).map_err(|_| format!("{url:?} has no name that a certificate can have"))
}

/// A refusal of ours in the form that rustls takes: it reaches our log or the reason of an attempt unchanged.
fn refused(why: String) -> rustls::Error {
    rustls::Error::General(why)
}
