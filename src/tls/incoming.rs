//! Who calls: shown by a certificate of a party, signed by that party's own roots.

use std::collections::HashMap;
use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{of_callers, provider, refused, store, words};
use crate::rules::identity::named;
use crate::rules::parties::Parties;
use crate::tls::client_auth::TlsClientAuth;

/// Decides whether the certificates of callers are accepted.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    parties: Arc<Parties>,
    /// The verifiers of all parties that have roots.
    verifiers: HashMap<PartyId, Arc<dyn ClientCertVerifier>>,
    /// Names of the roots, which are sent to callers so that they can choose among their certificates.
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
                let verifier = of_callers(store).map_err(|why| format!("certificates of {party}: {why}"))?;
                verifiers.insert(party.clone(), verifier);
            }
        }
        Ok(Self { parties, verifiers, roots, mandatory: auth == TlsClientAuth::Required })
    }

    /// Checks a caller's certificate. The error says what is wrong with it, as the end of a sentence.
    pub(super) fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), String> {
        let (_, verifier) = self.verifier(end_entity)?;
        verifier
            .verify_client_cert(end_entity, intermediates, now)
            .map(drop)
            .map_err(|why| words::of_certificate(&why))
    }

    /// The party that a certificate names, and the verifier with that party's roots.
    fn verifier(
        &self,
        end_entity: &CertificateDer<'_>,
    ) -> Result<(PartyId, &Arc<dyn ClientCertVerifier>), String> {
        let party = named(end_entity, &self.parties).map_err(|why| format!("tells no party: {why}"))?;
        match self.verifiers.get(&party) {
            Some(verifier) => Ok((party, verifier)),
            None => {
                Err(format!("names {party}, for which the party file has no certificates to check it with"))
            }
        }
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
        let (party, verifier) =
            self.verifier(end_entity).map_err(|why| refused(format!("the caller's certificate {why}")))?;
        verifier.verify_client_cert(end_entity, intermediates, now).inspect_err(|why| {
            let why = words::of_certificate(why);
            // The connection logs the warning, one per handshake, because it knows where the caller came from.
            tracing::debug!(caller = %party, "a caller's certificate {why}");
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
