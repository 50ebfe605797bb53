//! Makes a certificate authority and the certificates of one party (X.509, ECDSA P-256, keys as PKCS#8).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use petnet_storage::PartyId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::explain;
use crate::rules::party_uri::party_uri;

/// New certificates are valid from this long before now, for clocks that are wrong.
const CLOCKS: Duration = Duration::HOUR;

/// A certificate (including what leads from it to a root, but not the root) and its key, both as PEM.
#[derive(Clone)]
pub(crate) struct CertificateAndKey {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The names under which a gateway is called, in addition to its party's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GatewayNames {
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

impl GatewayNames {
    /// Names for callers on the same machine.
    pub(crate) fn this_machine() -> Self {
        Self {
            dns: vec!["localhost".into()],
            ip: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }
}

/// What a certificate is to contain.
#[derive(Debug, Clone)]
pub(crate) struct WantedCertificate {
    /// The name that people see.
    pub(crate) name: String,
    pub(crate) names: Vec<SanType>,
    /// A gateway both serves and calls; a program only calls.
    pub(crate) serves: bool,
    pub(crate) from: OffsetDateTime,
    pub(crate) until: OffsetDateTime,
}

impl WantedCertificate {
    /// A certificate for the gateway of a party.
    pub(crate) fn gateway(party: &PartyId, names: &GatewayNames, days: u32) -> Result<Self, rcgen::Error> {
        let mut sans = vec![uri(party)?];
        // Peers that look only at DNS names know the party by this one.
        if let Ok(name) = party.as_str().to_ascii_lowercase().try_into()
            && is_dns_name(party.as_str())
        {
            sans.push(SanType::DnsName(name));
        }
        for name in &names.dns {
            sans.push(SanType::DnsName(name.as_str().try_into()?));
        }
        sans.extend(names.ip.iter().map(|ip| SanType::IpAddress(*ip)));
        Ok(Self::from_now(format!("PETNet gateway of {party}"), sans, true, days))
    }

    /// A certificate for the programs of a party.
    pub(crate) fn program(party: &PartyId, days: u32) -> Result<Self, rcgen::Error> {
        Ok(Self::from_now(format!("PETNet client of {party}"), vec![uri(party)?], false, days))
    }

    fn from_now(name: String, names: Vec<SanType>, serves: bool, days: u32) -> Self {
        let (from, until) = validity(days);
        Self { name, names, serves, from, until }
    }
}

fn uri(party: &PartyId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(party_uri(party).try_into()?))
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 characters: what verifiers accept as a DNS name.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(all_digits)
}

fn all_digits(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
}

fn validity(days: u32) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - CLOCKS, now + Duration::days(days.into()))
}

fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Makes it positive, and of full length.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The authority of one party.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    until: OffsetDateTime,
}

impl Authority {
    /// A new authority, with its own key.
    pub(crate) fn new(party: &PartyId, days: u32) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("PETNet CA of {party}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        (params.not_before, params.not_after) = validity(days);
        let made = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certificate = made.pem();
        Self::load(&CertificateAndKey { key: made.key().serialize_pem(), certificate })
    }

    /// An authority that was made before.
    pub(crate) fn load(pair: &CertificateAndKey) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, KeyPair::from_pem(&pair.key)?)?;
        let unreadable = || rcgen::Error::CouldNotParseCertificate;
        let explained = explain::all(pair.certificate.as_bytes()).map_err(|_| unreadable())?;
        let until = explained.first().ok_or_else(unreadable)?.valid_until;
        let until = OffsetDateTime::from_unix_timestamp(until).map_err(|_| unreadable())?;
        Ok(Self { issuer, certificate: pair.certificate.clone(), until })
    }

    /// The authority's certificate and key.
    pub(crate) fn pair(&self) -> CertificateAndKey {
        CertificateAndKey { certificate: self.certificate.clone(), key: self.issuer.key().serialize_pem() }
    }

    /// Issues a certificate with a new key. It is not valid for longer than the authority.
    pub(crate) fn issue(&self, wanted: &WantedCertificate) -> Result<CertificateAndKey, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, wanted.name.clone());
        params.subject_alt_names.clone_from(&wanted.names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if wanted.serves {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        (params.not_before, params.not_after) = (wanted.from, wanted.until.min(self.until));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(CertificateAndKey { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
