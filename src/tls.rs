//! TLS on both sides: what we show, and whom we believe.
//!
//! Nobody is believed because some known authority signed: a certificate counts for a party only when that party's own
//! roots (`certificates` in the party file) signed it. One pool for all would let the authority of any party mint the
//! certificates of any other. `incoming` decides about those who call, `outgoing` about those whom we call.
//!
//! There is no resumption of sessions: it would let in who was known under an older party file.

pub(crate) mod connector;
pub(crate) mod counted;
mod incoming;
mod myself;
mod outgoing;
mod own;

use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use myself::myself;
pub use own::{CERTIFICATE, KEY, Own};

use crate::config::TlsClientAuth;
use crate::parties::{Connection, Parties};

/// What HTTP/2 is called in a handshake.
const HTTP2: &[u8] = b"h2";

/// TLS with one version of our certificate and of the party file.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// For those who call.
    pub(crate) server: Arc<ServerConfig>,
    own: Arc<SingleCertAndKey>,
    parties: Arc<Parties>,
}

impl Tls {
    /// Every party's roots must be readable: the party file was checked.
    pub(crate) fn new(own: &Own, parties: Arc<Parties>, auth: TlsClientAuth) -> Result<Self, String> {
        let key = Arc::new(SingleCertAndKey::from(own.certified_key()));
        let verifier = incoming::CallerVerifier::new(parties.clone(), auth)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut server =
            builder.with_client_cert_verifier(Arc::new(verifier)).with_cert_resolver(key.clone());
        server.alpn_protocols = vec![HTTP2.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), own: key, parties })
    }

    /// For calling `peer` over `connection`: the other side must be that party.
    pub(crate) fn client(
        &self,
        peer: &PartyId,
        connection: &Connection,
    ) -> Result<Arc<ClientConfig>, String> {
        let verifier = outgoing::PeerVerifier::new(peer.clone(), connection, self.parties.clone())?;
        let builder = ClientConfig::builder_with_provider(provider())
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

/// For a program of a party: believes the gateways that `roots` signed, shows `pair` (certificate and key). All PEM.
pub(crate) fn program(roots: &str, pair: (&[u8], &[u8])) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    for root in self::roots(roots)? {
        store.add(root).map_err(|e| e.to_string())?;
    }
    let chain =
        CertificateDer::pem_slice_iter(pair.0).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(pair.1).map_err(|e| format!("no private key: {e}"))?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(store)
        .with_client_auth_cert(chain, key)
        .map_err(|e| e.to_string())?;
    client.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(client))
}

/// Named everywhere: with two in the tree, rustls cannot choose, and panics.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether `key` is that of the first certificate of PEM text.
pub(crate) fn key_fits(pem: &[u8], key: PrivateKeyDer<'static>) -> Result<(), String> {
    let chain =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    CertifiedKey::from_der(chain, key, &provider()).map(drop).map_err(|why| match why {
        rustls::Error::InconsistentKeys(_) => "it is not the key of the first certificate".into(),
        other => format!("it cannot be used: {other}"),
    })
}

/// The certificates of PEM text, each of which can be a root.
pub(crate) fn roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("not PEM: {e}"))?;
    let mut store = RootCertStore::empty();
    for (n, certificate) in certificates.iter().enumerate() {
        store
            .add(certificate.clone())
            .map_err(|e| format!("certificate {} of {} cannot be a root: {e}", n + 1, certificates.len()))?;
    }
    if certificates.is_empty() { Err("no certificate in it".into()) } else { Ok(certificates) }
}

/// The roots of some connections of a party, of all together. `None`: it has none.
fn store<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Result<Option<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for connection in connections {
        if connection.certificates.trim().is_empty() {
            continue;
        }
        for root in roots(&connection.certificates)? {
            store.add(root).map_err(|e| e.to_string())?;
        }
    }
    Ok((!store.is_empty()).then_some(store))
}

/// What is wrong with a certificate, as the end of a sentence.
fn in_words(why: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    match why {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "is not signed by any of the certificates that the party file has for that party".into()
        }
        rustls::Error::InvalidCertificate(bad) => format!("cannot be believed: {bad}"),
        other => format!("cannot be believed: {other}"),
    }
}

/// A refusal of ours, as rustls takes it: it reaches our log or the reason of an attempt as it is.
fn refused(why: String) -> rustls::Error {
    rustls::Error::General(why)
}
