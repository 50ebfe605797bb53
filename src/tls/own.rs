//! Our own certificate and key: `server.crt` and `server.key` in the folder `PEM_PATH`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// Our certificate and what leads from it to a root, in PEM.
pub const CERTIFICATE: &str = "server.crt";
/// Its private key in PEM: PKCS#8, PKCS#1 or SEC1.
pub const KEY: &str = "server.key";
/// Warn this many days before the certificate expires.
const EXPIRES_SOON_DAYS: i64 = 30;
const DAY: i64 = 24 * 3600;

/// A certificate with its key that fit each other and are valid now.
#[derive(Clone)]
pub struct Own {
    key: CertifiedKey,
    pem: (Vec<u8>, Vec<u8>),
    /// What the operator should know; one line each.
    pub notices: Vec<String>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("notices", &self.notices).finish_non_exhaustive()
    }
}

/// Equal when the files were.
impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Own {
    /// What `server.crt` holds.
    pub(crate) fn certificate_pem(&self) -> &[u8] {
        &self.pem.0
    }

    /// Reads both files of a folder. `None`: there is neither. Else every mistake.
    pub fn load(folder: &Path) -> Result<Option<Self>, Vec<String>> {
        let paths = [folder.join(CERTIFICATE), folder.join(KEY)];
        let mut mistakes = Vec::new();
        let mut read = |path: &PathBuf| match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(why) => {
                mistakes.push(format!("PEM_PATH: cannot read {}: {why}", path.display()));
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
            [Some(_), None] => Err(vec![one_only(certificate, key)]),
            [None, Some(_)] => Err(vec![one_only(key, certificate)]),
        }
    }

    fn new([certificate, key]: &[PathBuf; 2], pem: Vec<u8>, key_pem: Vec<u8>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut fail =
            |path: &Path, why: String| mistakes.push(format!("PEM_PATH: {}: {why}", path.display()));
        let chain = chain(&pem).map_err(|why| fail(certificate, why)).ok();
        let private =
            PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| fail(key, no_key(&key_pem, &e))).ok();
        let validity =
            chain.as_ref().and_then(|chain| validity(&chain[0]).map_err(|why| fail(certificate, why)).ok());
        let (Some(chain), Some(private)) = (chain, private) else { return Err(mistakes) };
        let mut notices = notices(key);
        if let Some(days) = validity.filter(|days| *days < EXPIRES_SOON_DAYS) {
            notices.push(format!(
                "{} expires in {days} days; put a new one there, it is taken up without a restart",
                certificate.display()
            ));
        }
        let fits = CertifiedKey::from_der(chain, private, &provider());
        let certified = fits.map_err(|why| fail(key, does_not_fit(&why, certificate)));
        match certified {
            Ok(certified) if mistakes.is_empty() => Ok(Self { key: certified, pem: (pem, key_pem), notices }),
            _ => Err(mistakes),
        }
    }

    /// The certificate with what leads to a root, and the key.
    pub(super) fn certified_key(&self) -> CertifiedKey {
        self.key.clone()
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

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| format!("not PEM: {e}"))?;
    if chain.is_empty() { Err("no certificate in it (no BEGIN CERTIFICATE)".into()) } else { Ok(chain) }
}

fn no_key(pem: &[u8], why: &rustls::pki_types::pem::Error) -> String {
    if pem.windows(9).any(|word| word == b"ENCRYPTED") {
        return "the key is encrypted, and a gateway that starts by itself cannot ask for a password; store it decrypted, \
                readable for this user only"
            .into();
    }
    format!("no private key in it (PKCS#8, PKCS#1 or SEC1 as PEM): {why}")
}

fn does_not_fit(why: &rustls::Error, certificate: &Path) -> String {
    match why {
        rustls::Error::InconsistentKeys(_) => {
            format!("is not the key of the first certificate in {}", certificate.display())
        }
        other => format!("cannot be used: {other}"),
    }
}

/// Days left. An error: not valid now.
fn validity(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| format!("the certificate cannot be read: {e}"))?;
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
