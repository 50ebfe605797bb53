//! What TLS libraries say about certificates and keys, rephrased for people.

use rustls::{CertificateError as Bad, Error};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The keys that gateways work with, as the end of a sentence.
pub(crate) const GOOD_KEYS: &str = "use RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519";

/// What is wrong with a certificate, as the end of a sentence that begins with it.
pub(super) fn of_certificate(why: &Error) -> String {
    let Error::InvalidCertificate(bad) = why else { return of_tls(why) };
    match bad {
        Bad::UnknownIssuer => {
            "is not signed by any of the certificates that the party file has for that party, nor leads to one by what is \
             shown with it (is the certificate of an intermediate authority missing behind it?)"
                .into()
        }
        Bad::BadSignature => {
            "is not signed by any of the certificates that the party file has for that party: the name of one fits, its key \
             does not, or is of a kind that is not believed (RSA of less than 2048 bits)"
                .into()
        }
        Bad::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            unbelieved(signature_algorithm_id)
        }
        Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { signature_algorithm_id, .. } => format!(
            "is signed with {} by a key of a kind that is not believed with it; for the authority, {GOOD_KEYS}",
            algorithm(signature_algorithm_id)
        ),
        Bad::Expired | Bad::ExpiredContext { .. } => "is expired, or one that it needs is".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "is not valid yet, or one that it needs is not; is the clock right?".into()
        }
        Bad::NotValidForNameContext { expected, presented } => format!(
            "is not valid for {}, under which it is called; it has: {}",
            expected.to_str(),
            if presented.is_empty() { "no names".into() } else { names(presented) }
        ),
        Bad::NotValidForName => "is not valid for the name under which it is called".into(),
        Bad::InvalidPurposeContext { required, .. } => {
            format!("is not made for {required} (extended key usage); have one made that is")
        }
        Bad::InvalidPurpose => "is not made for that purpose (extended key usage)".into(),
        Bad::UnhandledCriticalExtension => "demands something that is not known here (a critical extension)".into(),
        Bad::BadEncoding => "is no certificate that can be read".into(),
        Bad::Revoked => "was revoked".into(),
        Bad::Other(other) => of_other(other),
        _ => format!("cannot be believed: {}", plain(&bad.to_string())),
    }
}

fn of_other(other: &rustls::OtherError) -> String {
    use webpki::Error as Why;
    match other.0.downcast_ref::<webpki::Error>() {
        Some(Why::CaUsedAsEndEntity) => {
            "is that of an authority (basic constraints CA:TRUE, as openssl req -x509 makes them); have it sign one for the \
             gateway, and show that"
                .into()
        }
        Some(Why::EndEntityUsedAsCa) => {
            "is signed by a certificate that is not one of an authority (basic constraints CA:FALSE)".into()
        }
        Some(Why::PathLenConstraintViolated) => {
            "has more authorities between itself and the root than one of them allows (path length)".into()
        }
        Some(Why::NameConstraintViolation) => "has a name that its authority must not give (name constraints)".into(),
        Some(Why::UnsupportedCertVersion) => "is not X.509 version 3".into(),
        Some(why) => format!("cannot be believed: {}", plain(&why.to_string())),
        None => "cannot be believed".into(),
    }
}

/// What is wrong with a handshake, or with preparing one.
pub(crate) fn of_tls(why: &Error) -> String {
    match why {
        Error::General(ours) => ours.clone(),
        Error::InvalidCertificate(_) => format!("the certificate {}", of_certificate(why)),
        Error::AlertReceived(alert) => format!("the other side ended it: {}", of_alert(*alert)),
        Error::NoCertificatesPresented => "the other side shows no certificate".into(),
        Error::InvalidMessage(_) => "what came is not TLS".into(),
        Error::PeerIncompatible(_) => "the two sides have no version or cipher of TLS in common".into(),
        other => plain(&other.to_string()),
    }
}

/// What is wrong with a handshake, from the error of a connection in which tokio-rustls reports it.
pub(crate) fn of_handshake(why: &std::io::Error) -> String {
    let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or_else(|| why.to_string(), of_tls)
}

fn of_alert(alert: rustls::AlertDescription) -> &'static str {
    use rustls::AlertDescription as Alert;
    match alert {
        Alert::UnknownCA => "it has no root for our certificate",
        Alert::CertificateExpired => "our certificate is expired there",
        Alert::CertificateRevoked => "our certificate was revoked",
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "it does not believe our certificate"
        }
        Alert::CertificateRequired => "it wants a certificate, and was shown none",
        Alert::AccessDenied => "it does not let us in",
        Alert::DecryptError => "it cannot check the signature of our key",
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => {
            "the two sides have no version or cipher of TLS in common"
        }
        Alert::NoApplicationProtocol => "it does not speak HTTP/2 there",
        Alert::UnrecognisedName => "it does not know the name under which it was called",
        _ => "it gives no reason",
    }
}

/// The text of a library without the structures of its own that it prints, if there are any.
fn plain(words: &str) -> String {
    let end = words.find(['{', '[', '(']).unwrap_or(words.len());
    let words = words[..end].trim_end_matches([':', ' ']);
    if words.is_empty() { "no reason is given".into() } else { words.to_owned() }
}

/// The names in a certificate, which libraries print in Rust's form.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        name.replace("DnsName(\"", "")
            .replace("IpAddress(", "")
            .replace("UniformResourceIdentifier(\"", "")
            .replace(['"', ')'], "")
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

/// Object identifiers of signatures, encoded in DER, as prefixes of whatever follows.
const ALGORITHMS: [(&[u8], &str); 10] = [
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 4], "MD5 and RSA"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5], "SHA-1 and RSA"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 14], "SHA-224 and RSA"),
    (&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], "SHA-1 and ECDSA"),
    (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1], "SHA-224 and ECDSA"),
    (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], "SHA-256 and ECDSA"),
    (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], "SHA-384 and ECDSA"),
    (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], "SHA-512 and ECDSA"),
    (&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3], "SHA-1 and DSA"),
    (&[6, 3, 0x2b, 0x65, 0x71], "Ed448"),
];

/// Says that a certificate has a signature of a kind that nobody believes.
pub(super) fn unbelieved(id: &[u8]) -> String {
    format!("is signed with {}, which is not believed; have it signed with SHA-256", algorithm(id))
}

/// The name of a signature algorithm given in DER.
fn algorithm(id: &[u8]) -> String {
    let known = ALGORITHMS.iter().find(|(start, _)| id.starts_with(start));
    known.map_or_else(|| "an algorithm".to_owned(), |(_, name)| (*name).to_owned())
}

/// Why a private key cannot be used, as the end of a sentence; its certificate shows what kind of key it is.
pub(crate) fn of_key(why: &Error, certificate: &[u8]) -> String {
    if matches!(why, Error::InconsistentKeys(_)) {
        return "is not the key of the first certificate".into();
    }
    let version =
        X509Certificate::from_der(certificate).map_or(2, |(_, certificate)| certificate.version().0);
    match unusable_key(certificate) {
        Some(kind) => format!("cannot be used: {kind}; {GOOD_KEYS}"),
        // The library reads no such certificate, whatever its key.
        None if version != 2 => format!(
            "may well be good, but its certificate is of X.509 version {}, and only version 3 works: make a new certificate with extensions (with openssl x509 -req: -extfile) for the same key",
            version + 1
        ),
        None => format!("cannot be used: it is no key of a kind that works here; {GOOD_KEYS}"),
    }
}

/// The kind of a certificate's key, if a certificate with such a key cannot be shown here.
pub(crate) fn unusable_key(certificate: &[u8]) -> Option<String> {
    bad_key(certificate, 4096)
}

/// The kind of a root's key, if nothing can be checked here with such a key.
pub(crate) fn unusable_root(certificate: &[u8]) -> Option<String> {
    bad_key(certificate, 8192)
}

fn bad_key(certificate: &[u8], longest_rsa: usize) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !(2048..=longest_rsa).contains(&rsa.key_size()) => {
            Some(format!("its key is RSA of {} bits", rsa.key_size()))
        }
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
            match curve.as_str() {
                "1.2.840.10045.3.1.7" | "1.3.132.0.34" => None,
                "1.3.132.0.35" => Some("its key is of the curve P-521".into()),
                "1.3.132.0.10" => Some("its key is of the curve secp256k1".into()),
                other => Some(format!("its key is of the curve {other}")),
            }
        }
        Ok(PublicKey::DSA(_)) => Some("its key is DSA".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_librarys_own_form_is_left() {
        assert_eq!(
            plain("invalid peer certificate: Other(OtherError(CaUsed))"),
            "invalid peer certificate: Other"
        );
        assert_eq!(plain("peer misbehaved: [1, 2]"), "peer misbehaved");
        assert_eq!(plain("{}"), "no reason is given");
        assert_eq!(
            names(&["DnsName(\"a.example\")".into(), "IpAddress(192.0.2.1)".into()]),
            "a.example, 192.0.2.1"
        );
        assert_eq!(algorithm(&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5, 5, 0]), "SHA-1 and RSA");
        assert_eq!(algorithm(&[1]), "an algorithm");
    }
}
