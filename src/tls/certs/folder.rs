//! A folder with the authority and the certificates of one party.
//!
//! Invariant: a file is either complete or absent, even after a power loss, and an existing file is never overwritten
//! unless a renewal was asked for.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use petnet_storage::PartyId;
use tempfile::NamedTempFile;

use super::explain::{self, ExplainedCertificate};
use super::make::{Authority, CertificateAndKey, GatewayNames, WantedCertificate};
use crate::rules::text;

/// Files of the party's authority, whose certificate other parties get.
pub(crate) const AUTHORITY: &str = "ca";
/// Files of the gateway.
pub(crate) const GATEWAY: &str = "server";
/// Files of the programs.
pub(crate) const PROGRAM: &str = "client";

/// How long new certificates are valid, in days.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) authority: u32,
    pub(crate) others: u32,
}

impl Default for Lifetimes {
    /// Ten years for the authority; a little over one year for the others, which is what public authorities give.
    fn default() -> Self {
        Self { authority: 3650, others: 397 }
    }
}

/// Creates all six files of a new party.
pub(crate) fn make(
    folder: &Path,
    party: &PartyId,
    names: &GatewayNames,
    days: Lifetimes,
) -> Result<(), String> {
    let there: Vec<_> = [AUTHORITY, GATEWAY, PROGRAM]
        .iter()
        .flat_map(|stem| [path(folder, stem, "crt"), path(folder, stem, "key")])
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if !there.is_empty() {
        return Err(format!(
            "there is already {}; nothing was changed. Choose another --out, or make new ones by the authority that is there \
             with --renew",
            there.join(", ")
        ));
    }
    create(folder)?;
    let authority = Authority::new(party, days.authority).map_err(|e| e.to_string())?;
    let pairs = issue(&authority, party, names, days.others)?;
    write(folder, AUTHORITY, &authority.pair())?;
    write_both(folder, &pairs)
}

/// Creates new certificates and keys for the gateway and for programs, signed by the authority in the folder. If `names` is
/// `None`, those of the old certificate are used.
pub(crate) fn renew(
    folder: &Path,
    party: &PartyId,
    names: Option<GatewayNames>,
    days: u32,
) -> Result<(), String> {
    let pair = CertificateAndKey {
        certificate: read(folder, AUTHORITY, "crt")?,
        key: read(folder, AUTHORITY, "key")?,
    };
    let authority = Authority::load(&pair)
        .map_err(|e| format!("the authority in {} cannot be used: {e}", folder.display()))?;
    let names = match names {
        Some(names) => names,
        None => names_of(folder, party)?,
    };
    write_both(folder, &issue(&authority, party, &names, days)?)
}

/// The names in the gateway's old certificate, which must be this party's.
fn names_of(folder: &Path, party: &PartyId) -> Result<GatewayNames, String> {
    let file = path(folder, GATEWAY, "crt");
    let old = read(folder, GATEWAY, "crt")?;
    let all = explain::all(old.as_bytes()).map_err(|why| format!("{}: {why}", file.display()))?;
    let Some(ExplainedCertificate { parties, dns, ip, .. }) = all.into_iter().next() else {
        return Err(format!("{}: no certificate in it", file.display()));
    };
    if parties.iter().any(|named| named != party.as_str()) {
        return Err(format!("{} is of {}, not of {party}", file.display(), parties.join(", ")));
    }
    let is_other = |name: &String| !name.eq_ignore_ascii_case(party.as_str());
    let ip = ip.iter().filter_map(|ip| ip.parse().ok()).collect();
    Ok(GatewayNames { dns: dns.into_iter().filter(is_other).collect(), ip })
}

fn issue(
    authority: &Authority,
    party: &PartyId,
    names: &GatewayNames,
    days: u32,
) -> Result<[(&'static str, CertificateAndKey); 2], String> {
    let make = |wanted: Result<WantedCertificate, rcgen::Error>| {
        wanted.and_then(|wanted| authority.issue(&wanted)).map_err(|e| e.to_string())
    };
    Ok([
        (GATEWAY, make(WantedCertificate::gateway(party, names, days))?),
        (PROGRAM, make(WantedCertificate::program(party, days))?),
    ])
}

fn write_both(folder: &Path, pairs: &[(&str, CertificateAndKey)]) -> Result<(), String> {
    pairs.iter().try_for_each(|(stem, pair)| write(folder, stem, pair))
}

/// Writes the key first: a program that reads in between finds a pair that does not fit, refuses it, and reads again.
fn write(folder: &Path, stem: &str, pair: &CertificateAndKey) -> Result<(), String> {
    for (ending, text, mode) in [("key", &pair.key, 0o600), ("crt", &pair.certificate, 0o644)] {
        let to = path(folder, stem, ending);
        put(folder, &to, text, mode).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    }
    Ok(())
}

fn put(folder: &Path, to: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(to)?;
    File::open(folder)?.sync_all()
}

fn create(folder: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| format!("cannot create {}: {e}", folder.display()))
}

fn read(folder: &Path, stem: &str, ending: &str) -> Result<String, String> {
    let file = path(folder, stem, ending);
    text::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))
}

fn path(folder: &Path, stem: &str, ending: &str) -> PathBuf {
    folder.join(format!("{stem}.{ending}"))
}
