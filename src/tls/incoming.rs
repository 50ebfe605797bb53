//! Who calls: a certificate of a party, signed by that party's own roots.

use std::collections::HashMap;
use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{in_words, provider, refused, store};
use crate::config::TlsClientAuth;
use crate::identity::named;
use crate::parties::Parties;

/// Decides about the certificates of callers.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    parties: Arc<Parties>,
    /// Of the parties that have roots.
    verifiers: HashMap<PartyId, Arc<dyn ClientCertVerifier>>,
    /// Told to callers, so that they can choose among their certificates.
    roots: Vec<DistinguishedName>,
    mandatory: bool,
}

impl CallerVerifier {
    pub(super) fn new(parties: Arc<Parties>, auth: TlsClientAuth) -> Result<Self, String> {
        let mut verifiers: HashMap<PartyId, Arc<dyn ClientCertVerifier>> = HashMap::new();
        let mut roots = Vec::new();
        for (party, connections) in &parties.parties {
            if let Some(store) =
                store(connections).map_err(|why| format!("certificates of {party}: {why}"))?
            {
                roots.extend(store.subjects());
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider()).build();
                let verifier = verifier.map_err(|e| format!("certificates of {party}: {e}"))?;
                verifiers.insert(party.clone(), verifier);
            }
        }
        Ok(Self { parties, verifiers, roots, mandatory: auth == TlsClientAuth::Required })
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.roots
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let party = named(end_entity, &self.parties)
            .map_err(|why| refused(format!("the caller's certificate tells no party: {why}")))?;
        let Some(verifier) = self.verifiers.get(&party) else {
            return Err(refused(format!(
                "the caller's certificate names {party}, for which the party file has no certificates to check it with"
            )));
        };
        verifier.verify_client_cert(end_entity, intermediates, now).inspect_err(|why| {
            let why = in_words(why);
            tracing::warn!(caller = %party, "a caller's certificate {why}");
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
