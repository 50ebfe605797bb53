//! What certificates say: whom they name, for how long, who signed them. For people and for checks, never for deciding
//! who may come in.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::names::{is_party_uri, party_of_uri};

const DAY: i64 = 24 * 3600;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Explained {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Hexadecimal.
    pub(crate) serial: String,
    /// The parties that it names by URI.
    pub(crate) parties: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<String>,
    /// Seconds since 1970.
    pub(crate) valid_from: i64,
    pub(crate) valid_until: i64,
    pub(crate) key: String,
    pub(crate) purpose: Purpose,
    /// Whether the key of the next one in the file signed it; of the last one, whether its own did.
    pub(crate) signed_by_next: bool,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Signing other certificates.
    Authority,
    /// Proving who serves and who calls: what a gateway needs.
    Both,
    Serving,
    Calling,
    /// Something else.
    Neither,
}

/// Where the time stands to the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Days until then.
    NotYet(i64),
    /// Days left.
    Now(i64),
    /// Days since.
    Expired(i64),
}

impl Explained {
    /// At `now`, in seconds since 1970.
    pub(crate) fn validity(&self, now: i64) -> Validity {
        if now < self.valid_from {
            Validity::NotYet((self.valid_from - now) / DAY)
        } else if now < self.valid_until {
            Validity::Now((self.valid_until - now) / DAY)
        } else {
            Validity::Expired((now - self.valid_until) / DAY)
        }
    }
}

/// Every certificate of PEM text, in its order.
pub(crate) fn all(pem: &[u8]) -> Result<Vec<Explained>, String> {
    let ders: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| format!("not PEM: {e}"))?;
    let parsed = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, certificate)| certificate))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("a certificate in it cannot be read: {e}"))?;
    if parsed.is_empty() {
        return Err("no certificate in it (no BEGIN CERTIFICATE)".into());
    }
    Ok(parsed.iter().enumerate().map(|(n, one)| explain(one, parsed.get(n + 1))).collect())
}

fn explain(one: &X509Certificate<'_>, next: Option<&X509Certificate<'_>>) -> Explained {
    let (mut uris, mut dns, mut ip) = (Vec::new(), Vec::new(), Vec::new());
    let (mut is_ca, mut serves, mut calls) = (false, true, true);
    for extension in one.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                        GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => ip.extend(address(bytes)),
                        _ => {}
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => is_ca = constraints.ca,
            ParsedExtension::ExtendedKeyUsage(usage) => {
                serves = usage.any || usage.server_auth;
                calls = usage.any || usage.client_auth;
            }
            _ => {}
        }
    }
    let named = uris.iter().filter(|uri| is_party_uri(uri)).filter_map(|uri| party_of_uri(uri));
    Explained {
        subject: one.subject().to_string(),
        issuer: one.issuer().to_string(),
        serial: one.raw_serial_as_string(),
        parties: named.map(|party| party.as_str().to_owned()).collect(),
        uris,
        dns,
        ip,
        valid_from: one.validity().not_before.timestamp(),
        valid_until: one.validity().not_after.timestamp(),
        key: key(one),
        purpose: match (is_ca, serves, calls) {
            (true, _, _) => Purpose::Authority,
            (_, true, true) => Purpose::Both,
            (_, true, false) => Purpose::Serving,
            (_, false, true) => Purpose::Calling,
            (_, false, false) => Purpose::Neither,
        },
        signed_by_next: one.verify_signature(Some(next.unwrap_or(one).public_key())).is_ok(),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok().map(|ip| ip.to_string())
}

fn key(one: &X509Certificate<'_>) -> String {
    match one.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("elliptic curve, {} bits", point.key_size()),
        _ => format!("algorithm {}", one.public_key().algorithm.algorithm),
    }
}
