//! Whom we call: the party that we mean, judged by its own roots, under the name by which we called it.

use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::{of_servers, refused, store, words};
use crate::rules::identity::named;
use crate::rules::parties::{Connection, Parties};

/// Decides whether the certificate of a peer's gateway is accepted.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    peer: PartyId,
    parties: Arc<Parties>,
    inner: Arc<WebPkiServerVerifier>,
}

impl PeerVerifier {
    pub(super) fn new(peer: PartyId, connection: &Connection, parties: Arc<Parties>) -> Result<Self, String> {
        let Some(store) = store([connection])? else {
            return Err(format!(
                "the party file has no certificates for {peer} at {}, so nobody there can be believed; give the root of \
                 {peer} under \"certificates\"",
                connection.url
            ));
        };
        let inner = of_servers(store).map_err(|why| format!("certificates of {peer}: {why}"))?;
        Ok(Self { peer, parties, inner })
    }

    /// Checks a certificate as the peer's. The error says what is wrong with it, as the end of a sentence.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, String> {
        let verified = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, &[], now)
            .map_err(|why| words::of_certificate(&why))?;
        match named(end_entity, &self.parties) {
            Ok(party) if party == self.peer => Ok(verified),
            Ok(party) => Err(format!("is that of {party}, not of {}", self.peer)),
            Err(why) => Err(format!("does not tell that it is {}'s: {why}", self.peer)),
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, server_name, now)
            .map_err(|why| refused(format!("the certificate shown as {}'s {why}", self.peer)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
