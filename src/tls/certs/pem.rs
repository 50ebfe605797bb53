//! Reads certificates and keys from PEM text, and says what is wrong with a text that has none.
//!
//! A byte order mark anywhere is skipped, and lines may end as on Windows.

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::rules::text::without_marks;

/// Every certificate, in the order of the text; at least one. The error is the end of a sentence.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&without_marks(pem))
        .collect::<Result<_, _>>()
        .map_err(|why| format!("not PEM: {}", in_words(&why)))?;
    if found.is_empty() { Err("no certificate in it (no BEGIN CERTIFICATE)".into()) } else { Ok(found) }
}

/// The first private key in the text.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&without_marks(pem)).map_err(|why| {
        if pem.windows(9).any(|word| word == b"ENCRYPTED") {
            return "the key is encrypted, and a gateway that starts by itself cannot ask for a password; store it decrypted, \
                    readable for this user only"
                .into();
        }
        format!("no private key in it (PKCS#8, PKCS#1 or SEC1 as PEM): {}", in_words(&why))
    })
}

fn in_words(why: &Error) -> String {
    let line = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
    match why {
        Error::MissingSectionEnd { end_marker } => {
            format!("it ends before the line \"-----END {}-----\"; was it copied whole?", line(end_marker))
        }
        Error::IllegalSectionStart { line: found } => {
            format!("the line \"{}\" begins nothing that is PEM", line(found))
        }
        Error::Base64Decode(_) => "what stands between its BEGIN and END lines is not base64".into(),
        Error::Io(why) => why.to_string(),
        Error::NoItemsFound => "there is no BEGIN line of such a thing".into(),
        Error::SectionTooLarge => "it is too large to be one".into(),
        _ => "it cannot be read".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_told_in_words() {
        let whole = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(whole.as_bytes()).map(|all| all.len()), Ok(1));
        let joined = format!("\u{feff}{whole}\u{feff}{}", whole.replace('\n', "\r\n"));
        assert_eq!(certificates(joined.as_bytes()).map(|all| all.len()), Ok(2));
        for (text, part) in [
            ("-----BEGIN CERTIFICATE-----\nMAA=\n", "ends before the line \"-----END CERTIFICATE-----\""),
            ("-----BEGIN CERTIFICATE\nMAA=\n", "begins nothing that is PEM"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "is not base64"),
            ("", "no certificate in it"),
            (whole, "no BEGIN line"),
        ] {
            let why = match part {
                "no BEGIN line" => private_key(text.as_bytes()).map(drop),
                _ => certificates(text.as_bytes()).map(drop),
            };
            let why = why.err().unwrap_or_default();
            assert!(why.contains(part) && !why.contains('['), "{part}: {why}");
        }
    }
}
