//! Our own certificate and key: `server.crt` and `server.key` in the folder `PEM_PATH`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, fs, io};

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{provider, words};
use crate::rules::mistake::Mistake;
use crate::rules::{regular, text};
use crate::tls::certs::pem;

/// Our certificate and the certificates that lead from it to a root, in PEM.
pub const CERTIFICATE: &str = "server.crt";
/// The private key of our certificate in PEM: PKCS#8, PKCS#1 or SEC1.
pub const KEY: &str = "server.key";
/// A warning is given this many days before the certificate expires.
const EXPIRES_SOON_DAYS: i64 = 30;
const DAY: i64 = 24 * 3600;

/// A certificate and its key, which fit each other and are valid now.
#[derive(Clone)]
pub struct OwnCertificate {
    key: CertifiedKey,
    pem: (Vec<u8>, Vec<u8>),
    /// Notices for the operator; one line each.
    pub notices: Vec<String>,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate").field("notices", &self.notices).finish_non_exhaustive()
    }
}

/// Two are equal if their files were.
impl PartialEq for OwnCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl OwnCertificate {
    /// The contents of `server.crt`.
    pub(crate) fn certificate_pem(&self) -> &[u8] {
        &self.pem.0
    }

    /// Reads both files in a folder; `None` if neither is there. Otherwise the error lists every mistake.
    pub fn load(folder: &Path) -> Result<Option<Self>, Vec<Mistake>> {
        let paths = [folder.join(CERTIFICATE), folder.join(KEY)];
        let mut mistakes = Vec::new();
        let mut read = |path: &PathBuf| match regular::read(path) {
            Ok(bytes) => Some(bytes),
            Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(why) => {
                let what = format!("PEM_PATH: cannot read {}: {why}", path.display());
                mistakes.push(Mistake::of_io(what, &why));
                None
            }
        };
        let found = [read(&paths[0]), read(&paths[1])];
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let [certificate, key] = &paths;
        match found {
            [None, None] => Ok(None),
            [Some(pem), Some(key_pem)] => Self::new(&paths, pem, key_pem).map(Some),
            [Some(_), None] => Err(vec![one_only(certificate, key).into()]),
            [None, Some(_)] => Err(vec![one_only(key, certificate).into()]),
        }
    }

    fn new([certificate, key]: &[PathBuf; 2], pem: Vec<u8>, key_pem: Vec<u8>) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut fail =
            |path: &Path, why: String| mistakes.push(format!("PEM_PATH: {}: {why}", path.display()).into());
        let chain = pem::certificates(&pem).map_err(|why| fail(certificate, why)).ok();
        let private = pem::private_key(&key_pem).map_err(|why| fail(key, why)).ok();
        let validity =
            chain.as_ref().and_then(|chain| validity(&chain[0]).map_err(|why| fail(certificate, why)).ok());
        let (Some(chain), Some(private)) = (chain, private) else { return Err(mistakes) };
        let mut notices = notices(key);
        if let Some(days) = validity.filter(|days| *days < EXPIRES_SOON_DAYS) {
            notices.push(format!(
                "{} expires in {}; put a new one there, it is taken up without a restart",
                certificate.display(),
                text::days(days)
            ));
        }
        let first = chain[0].clone();
        let fits = CertifiedKey::from_der(chain, private, &provider());
        let certified = fits.map_err(|why| {
            fail(key, format!("{} ({})", words::of_key(&why, &first), certificate.display()));
        });
        match certified {
            Ok(certified) if mistakes.is_empty() => Ok(Self { key: certified, pem: (pem, key_pem), notices }),
            _ => Err(mistakes),
        }
    }

    /// The certificate, the certificates that lead to a root, and the key.
    pub(super) fn certified_key(&self) -> CertifiedKey {
        self.key.clone()
    }

    /// The certificate, followed by those that are shown with it.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Our certificate itself.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }
}

fn one_only(there: &Path, missing: &Path) -> String {
    format!(
        "PEM_PATH: {} is there and {} is not; TLS needs both (neither: plaintext)",
        there.display(),
        missing.display()
    )
}

/// Days for which the certificate is still valid. An error if it is not valid now.
fn validity(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|_| "the certificate is none of X.509 that can be read")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed());
    let validity = parsed.validity();
    if validity.not_after.timestamp() <= now {
        return Err(format!("the certificate expired at {}", validity.not_after));
    }
    if validity.not_before.timestamp() > now {
        return Err(format!(
            "the certificate is not valid before {} (is the clock right?)",
            validity.not_before
        ));
    }
    Ok((validity.not_after.timestamp() - now) / DAY)
}

fn notices(key: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(key).map_or(0, |found| found.permissions().mode());
    let mut notices = Vec::new();
    if mode & 0o004 != 0 {
        notices.push(format!("{} can be read by every user of this machine; chmod 600 it", key.display()));
    }
    notices
}
