//! What certificates say: whom they name, for how long, who signed them. For people and for checks, never for deciding who
//! may come in.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::rules::party_uri::{is_party_uri, party_of_uri};
use crate::tls::certs::pem;

const DAY: i64 = 24 * 3600;

/// What one certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ExplainedCertificate {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// In hexadecimal.
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
    /// Whether the key of the next certificate in the file signed it; for the last one, whether its own key did.
    pub(crate) signed_by_next: bool,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Signing other certificates.
    Authority,
    /// Proving the identity of a server and of a caller: what a gateway needs.
    Both,
    Serving,
    Calling,
    /// Something else.
    Neither,
}

/// Whether a certificate is valid yet, now, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Days until it becomes valid.
    NotYet(i64),
    /// Days left.
    Now(i64),
    /// Days since it expired.
    Expired(i64),
}

impl ExplainedCertificate {
    /// The validity at `now`, in seconds since 1970.
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

/// The current validity of one certificate; `None` if it cannot be read.
pub(crate) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, one) = X509Certificate::from_der(der).ok()?;
    Some(explain(&one, None).validity(now()))
}

/// The current time, in seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// Every certificate in PEM text, in its order.
pub(crate) fn all(pem: &[u8]) -> Result<Vec<ExplainedCertificate>, String> {
    let ders = pem::certificates(pem)?;
    let parsed = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, certificate)| certificate))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "a certificate in it is none of X.509 that can be read")?;
    Ok(parsed.iter().enumerate().map(|(n, one)| explain(one, parsed.get(n + 1))).collect())
}

fn explain(one: &X509Certificate<'_>, next: Option<&X509Certificate<'_>>) -> ExplainedCertificate {
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
    ExplainedCertificate {
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
