//! The files that say who is who: the party file and our certificate. Read at start, and again while running.

use std::path::Path;
use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::pki_types::CertificateDer;

use crate::rules::identity::{NoIdentity, named};
use crate::rules::mistake::Mistake;
use crate::rules::parties::Parties;
use crate::rules::text;
use crate::tls::certs::explain::{self, Validity};
use crate::tls::words::{GOOD_KEYS, unusable_root};
use crate::tls::{self, CERTIFICATE, CertificateUse, OwnCertificate};

/// What the files say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileContents {
    pub(crate) parties: Parties,
    /// `None` means plaintext.
    pub(crate) own_certificate: Option<OwnCertificate>,
}

/// What is wrong with each of the two files; neither is put into force then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileMistakes {
    pub(crate) party_file: Vec<Mistake>,
    /// Mistakes in our own certificate and key, in the folder `PEM_PATH`.
    pub(crate) certificates: Vec<Mistake>,
}

impl FileMistakes {
    /// All mistakes, those of the party file first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Mistake> {
        self.party_file.iter().chain(&self.certificates)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

/// Reads both. Returns them with notices for the operator, or every mistake.
pub(crate) fn read(
    party_file: &Path,
    pem_path: &Path,
    own: Option<&PartyId>,
) -> Result<(FileContents, Vec<String>), FileMistakes> {
    let mut mistakes = FileMistakes::default();
    let mut notices = Vec::new();
    let parties = parties(party_file, own, &mut mistakes.party_file, &mut notices);
    let own_certificate = OwnCertificate::load(pem_path).unwrap_or_else(|found| {
        mistakes.certificates.extend(found);
        None
    });
    if let (Some(certificate), Some(parties), Some(own)) = (&own_certificate, &parties, own) {
        notices.extend(certificate.notices.clone());
        notices.extend(judge(certificate, (party_file, pem_path), own, parties, &mut mistakes));
    }
    match parties {
        Some(parties) if mistakes.is_empty() => Ok((FileContents { parties, own_certificate }, notices)),
        _ => Err(mistakes),
    }
}

fn parties(
    path: &Path,
    own: Option<&PartyId>,
    mistakes: &mut Vec<Mistake>,
    notices: &mut Vec<String>,
) -> Option<Parties> {
    let (parties, found) = match Parties::load(path) {
        Ok(loaded) => loaded,
        Err(found) => {
            mistakes.extend(found);
            return None;
        }
    };
    notices.extend(found);
    let file = path.display();
    let others = parties.parties.iter().filter(|(party, _)| Some(*party) != own);
    for (party, _) in others.filter(|(_, connections)| connections.is_empty()) {
        notices.push(format!(
            "{file}: {party} has no connections; it may deliver to us, but nothing can be delivered to it"
        ));
    }
    if let Some(own) = own.filter(|own| !parties.contains(own)) {
        let known: Vec<_> = parties.parties.keys().map(PartyId::as_str).collect();
        let known = if known.is_empty() { "nobody".into() } else { known.join(", ") };
        let why = format!("PARTY: \"{own}\" is not in the party file {file}, which has: {known}");
        mistakes.push(why.into());
    }
    Some(parties)
}

/// Judges whether others will believe us and whom we can believe, as mistakes and notices. Without TLS nobody looks at the
/// certificates in a party file, and PETNet's examples contain no real ones.
fn judge(
    certificate: &OwnCertificate,
    (party_file, pem_path): (&Path, &Path),
    own: &PartyId,
    parties: &Parties,
    mistakes: &mut FileMistakes,
) -> Vec<String> {
    let mut notices = Vec::new();
    let file = pem_path.join(CERTIFICATE).display().to_string();
    match certificate.certificate().map(|certificate| named(certificate, parties)) {
        Some(Ok(party)) if party != *own => {
            let why = format!("PEM_PATH: {file} is the certificate of {party}, not of {own}");
            mistakes.certificates.push(why.into());
        }
        // Also for a certificate that names nobody: there may be further reasons why peers do not believe it.
        Some(Ok(_) | Err(NoIdentity::Nobody(_))) => {
            notices.extend(not_believed(certificate, &file, own, parties));
        }
        Some(Err(why)) => mistakes.certificates.push(format!("PEM_PATH: {file}: {why}").into()),
        None => {}
    }
    let mistakes = &mut mistakes.party_file;
    for (party, connections) in &parties.parties {
        for (n, connection) in
            connections.iter().enumerate().filter(|(_, c)| !c.certificates.trim().is_empty())
        {
            let place = format!("{}: {party}.petnet[{n}].certificates", party_file.display());
            match tls::roots(&connection.certificates) {
                Ok(roots) => notices.extend(roots_in_doubt(&place, party, &roots)),
                Err(why) => mistakes.push(format!("{place}: {why}").into()),
            }
        }
    }
    let has_roots =
        |party: &PartyId| parties.connections(party).iter().any(|c| !c.certificates.trim().is_empty());
    if !has_roots(own) {
        notices.push(format!(
            "the party file has no certificates for {own} itself: no program of ours can prove to be one, and none is \
             served"
        ));
    }
    for (party, connections) in parties.parties.iter().filter(|(party, _)| *party != own) {
        for (n, connection) in connections.iter().enumerate() {
            if let Err(why) = tls::server_name(&connection.url) {
                mistakes.push(format!("{}: {party}.petnet[{n}].url: {why}", party_file.display()).into());
            }
        }
        if !connections.is_empty() && !has_roots(party) {
            notices.push(format!(
                "the party file has no certificates for {party}: nothing can be delivered to it, nor it to us"
            ));
        }
    }
    notices
}

/// Why no peer will believe our certificate, one line per reason, judged by the roots and urls in our own entry.
pub(crate) fn not_believed(
    certificate: &OwnCertificate,
    file: &str,
    own: &PartyId,
    parties: &Parties,
) -> Vec<String> {
    let reasons =
        tls::disbelieved(certificate.chain(), CertificateUse::Gateway, own, &Arc::new(parties.clone()));
    reasons.into_iter().map(|why| format!("NO PEER WILL BELIEVE {file}: it {why}")).collect()
}

/// Notices about roots that can prove nothing, or soon will not.
fn roots_in_doubt(place: &str, party: &PartyId, roots: &[CertificateDer<'_>]) -> Vec<String> {
    let mut notices = Vec::new();
    for (n, root) in roots.iter().enumerate() {
        let which = format!("{place}: certificate {} of {}", n + 1, roots.len());
        if let Some(kind) = unusable_root(root) {
            notices.push(format!(
                "{which} proves nothing: {kind}; ask {party} for an authority with another ({GOOD_KEYS})"
            ));
        }
        match explain::validity(root) {
            Some(Validity::Expired(days)) => notices.push(format!(
                "{which} expired {} ago; gateways of this kind go by it still, other programs do not: ask {party} for \
                 its next root",
                text::days(days)
            )),
            Some(Validity::NotYet(days)) => notices.push(format!(
                "{which} is not valid before {} from now; is the clock of this machine right?",
                text::days(days)
            )),
            _ => {}
        }
    }
    notices
}
