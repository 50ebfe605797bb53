//! Which party a certificate names.
//!
//! A certificate names a party by a URI `petnet://party/ID` among its subject alternative names, or else by a DNS name that
//! is the party's id or the host of one of its urls. If there are such URIs, DNS names do not count: two gateways may share
//! a host. Invariant: one party or an error; checking that the party's own roots signed the certificate is up to
//! [`crate::tls`].

use std::collections::BTreeSet;

use petnet_storage::PartyId;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::rules::parties::Parties;
use crate::rules::party_uri::{is_party_uri, party_of_uri};

/// Why a certificate does not say who shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoIdentity {
    #[error("it is not a certificate that can be read: {0}")]
    Unreadable(String),
    #[error(
        "it names no party of the party file (neither a URI petnet://party/ID, nor a party's id or host as a DNS name); it has: {0}"
    )]
    Nobody(String),
    #[error("it names several parties: {0}")]
    Several(String),
    #[error("{0:?} in it is not petnet://party/ID with the id of a party")]
    BadUri(String),
    #[error("it names {0}, which is not in the party file")]
    Stranger(PartyId),
}

/// The party that a certificate names. That proves nothing yet.
pub(crate) fn named(certificate: &CertificateDer<'_>, parties: &Parties) -> Result<PartyId, NoIdentity> {
    let certificate =
        EndEntityCert::try_from(certificate).map_err(|e| NoIdentity::Unreadable(e.to_string()))?;
    let uris: Vec<&str> = certificate.valid_uri_names().filter(|uri| is_party_uri(uri)).collect();
    let mut found = BTreeSet::new();
    for uri in &uris {
        let party = party_of_uri(uri).ok_or_else(|| NoIdentity::BadUri((*uri).to_owned()))?;
        found.insert(party);
    }
    if uris.is_empty() {
        for name in certificate.valid_dns_names() {
            let is_named = |(party, _): &(&PartyId, _)| names(name, party, parties);
            found.extend(parties.parties.iter().filter(is_named).map(|(party, _)| party.clone()));
        }
    }
    match (found.len(), found.pop_first()) {
        (1, Some(party)) if parties.contains(&party) => Ok(party),
        (1, Some(party)) => Err(NoIdentity::Stranger(party)),
        (_, None) => Err(NoIdentity::Nobody(all_names(&certificate))),
        (_, Some(first)) => {
            let all: Vec<_> =
                std::iter::once(first).chain(found).map(|party| party.as_str().to_owned()).collect();
            Err(NoIdentity::Several(all.join(", ")))
        }
    }
}

/// True if a DNS name is the id of the party or the host of one of its urls.
fn names(name: &str, party: &PartyId, parties: &Parties) -> bool {
    let is_host = |url: &str| host(url).is_some_and(|host| host.eq_ignore_ascii_case(name));
    name.eq_ignore_ascii_case(party.as_str())
        || parties.connections(party).iter().any(|connection| is_host(&connection.url))
}

/// The host of `host:port`; an IPv6 address is returned without its brackets.
pub(crate) fn host(url: &str) -> Option<&str> {
    let (host, _) = url.rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

fn all_names(certificate: &EndEntityCert<'_>) -> String {
    let names: Vec<&str> =
        certificate.valid_uri_names().chain(certificate.valid_dns_names()).take(10).collect();
    if names.is_empty() { "no names".into() } else { names.join(", ") }
}
