//! Whom we call: the party we mean, by its own roots, under the name by which we called it.

use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::{in_words, provider, refused, store};
use crate::identity::named;
use crate::parties::{Connection, Parties};

/// Decides about the certificate of a peer's gateway.
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
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|e| format!("certificates of {peer}: {e}"))?;
        Ok(Self { peer, parties, inner })
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|why| refused(format!("the certificate shown as {}'s {}", self.peer, in_words(&why))))?;
        match named(end_entity, &self.parties) {
            Ok(party) if party == self.peer => Ok(verified),
            Ok(party) => {
                Err(refused(format!("the certificate shown is that of {party}, not of {}", self.peer)))
            }
            Err(why) => {
                Err(refused(format!("the certificate shown does not tell that it is {}'s: {why}", self.peer)))
            }
        }
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
