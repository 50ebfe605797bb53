//! Whether others believe our own certificate: it is put before the very verifiers by which gateways judge each other's.
//!
//! What peers know about us is our own entry in the party file: our roots, and the urls at which they call us.

use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::incoming::CallerVerifier;
use super::outgoing::PeerVerifier;
use super::{of_callers, of_servers, provider, root_store, server_name, words};
use crate::rules::identity::named;
use crate::rules::parties::Parties;
use crate::tls::client_auth::TlsClientAuth;

/// How a certificate is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateUse {
    /// A gateway's certificate: the gateway is called, and calls.
    Gateway,
    /// A program's certificate: the program only calls.
    Program,
}

/// Why peers will not believe `chain` as `own`'s, each reason once, as the end of a sentence that begins with the
/// certificate. If empty, they will believe it, provided that their party file says the same about us as ours. This is the
/// only such judgement: at start, in the doctor, and in `petnet certs show`.
pub(crate) fn disbelieved(
    chain: &[CertificateDer<'static>],
    shown_as: CertificateUse,
    own: &PartyId,
    parties: &Arc<Parties>,
) -> Vec<String> {
    let Some((first, rest)) = chain.split_first() else { return Vec::new() };
    let entry = parties.connections(own);
    let mut reasons = Reasons::default();
    if entry.iter().all(|connection| connection.certificates.trim().is_empty()) {
        if shown_as == CertificateUse::Gateway {
            for name in entry.iter().filter_map(|connection| server_name(&connection.url).ok()) {
                reasons.0.extend(doubts(chain, Some(&name)));
            }
        }
        reasons.0.extend(doubts(chain, None));
        reasons.0.extend(named(first, parties).err().map(|why| format!("tells no party: {why}")));
        return reasons.each_once();
    }
    let now = UnixTime::now();
    for connection in entry.iter().filter(|connection| !connection.certificates.trim().is_empty()) {
        let (CertificateUse::Gateway, Ok(name)) = (shown_as, server_name(&connection.url)) else { continue };
        // Roots that cannot be used are a mistake in the party file, and are reported as one.
        if let Ok(verifier) = PeerVerifier::new(own.clone(), connection, parties.clone()) {
            reasons.0.extend(verifier.judge(first, rest, &name, now).err());
        }
    }
    if let Ok(verifier) = CallerVerifier::new(parties.clone(), TlsClientAuth::Required) {
        reasons.0.extend(verifier.judge(first, rest, now).err());
    }
    if named(first, parties).is_err() {
        // It is then unknown by whose roots a caller is judged; doubts that need no roots are reported all the same.
        reasons.0.extend(doubts(chain, None));
    }
    reasons.each_once()
}

/// The doubts that need no roots, whoever signed the certificate: as that of a server called under `name`, if there is one,
/// and as that of a caller.
fn doubts(chain: &[CertificateDer<'static>], name: Option<&ServerName<'_>>) -> Vec<String> {
    let Some((first, rest)) = chain.split_first() else { return Vec::new() };
    // The last certificate that is shown stands in for the root.
    let store = rest.last().map_or_else(|| Ok(nobody()), |last| root_store(vec![last.clone()]));
    let Ok(store) = store else { return vec!["is shown with one that is no certificate".into()] };
    let now = UnixTime::now();
    let mut reasons = Reasons::default();
    let mut judged = |result: Result<(), Error>| {
        let why = result.err().filter(|why| !is_unknown_issuer(why));
        reasons.0.extend(why.map(|why| words::of_certificate(&why)));
    };
    if let (Some(name), Ok(verifier)) = (name, of_servers(store.clone())) {
        use rustls::client::danger::ServerCertVerifier;
        judged(verifier.verify_server_cert(first, rest, name, &[], now).map(drop));
    }
    if let Ok(verifier) = of_callers(store) {
        judged(verifier.verify_client_cert(first, rest, now).map(drop));
    }
    reasons.0.extend(unbelieved_signature(first));
    reasons.each_once()
}

/// A root of which nobody has a certificate: there is no verifier without any roots.
fn nobody() -> RootCertStore {
    let empty = || Der::from_slice(&[]);
    let anchor = TrustAnchor { subject: empty(), subject_public_key_info: empty(), name_constraints: None };
    RootCertStore { roots: vec![anchor] }
}

fn is_unknown_issuer(why: &Error) -> bool {
    matches!(why, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

/// The reason if the signature is of a kind that is not believed. Verifiers look at a signature only when they know who
/// made it.
fn unbelieved_signature(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.algorithm.as_bytes();
    let id = [&[6, u8::try_from(oid.len()).ok()?], oid].concat();
    let believed = provider().signature_verification_algorithms.all;
    let is_believed = believed.iter().any(|one| one.signature_alg_id().as_ref().starts_with(&id));
    (!is_believed).then(|| words::unbelieved(&id))
}

#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn each_once(self) -> Vec<String> {
        let mut once: Vec<String> = Vec::new();
        for reason in self.0 {
            if !once.contains(&reason) {
                once.push(reason);
            }
        }
        once
    }
}
