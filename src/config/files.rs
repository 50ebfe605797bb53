//! The files that tell who is who: the party file and our certificate. Read at start, and again while running.

use std::path::Path;

use petnet_storage::PartyId;

use crate::identity::{NoIdentity, named};
use crate::parties::Parties;
use crate::tls::{self, CERTIFICATE, Own};

/// What the files say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Files {
    pub(crate) parties: Parties,
    /// `None`: plaintext.
    pub(crate) own_certificate: Option<Own>,
}

/// Reads both. Gives them with what the operator should know, or every mistake.
pub(crate) fn read(
    party_file: &Path,
    pem_path: &Path,
    own: Option<&PartyId>,
) -> Result<(Files, Vec<String>), Vec<String>> {
    let mut mistakes = Vec::new();
    let mut notices = Vec::new();
    let parties = parties(party_file, own, &mut mistakes, &mut notices);
    let own_certificate = Own::load(pem_path).unwrap_or_else(|found| {
        mistakes.extend(found);
        None
    });
    if let (Some(certificate), Some(parties), Some(own)) = (&own_certificate, &parties, own) {
        notices.extend(certificate.notices.clone());
        let found = judge(certificate, (party_file, pem_path), own, parties);
        mistakes.extend(found.0);
        notices.extend(found.1);
    }
    match parties {
        Some(parties) if mistakes.is_empty() => Ok((Files { parties, own_certificate }, notices)),
        _ => Err(mistakes),
    }
}

fn parties(
    path: &Path,
    own: Option<&PartyId>,
    mistakes: &mut Vec<String>,
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
        mistakes.push(format!(
            "PARTY: \"{own}\" is not in the party file {file}, which has: {}",
            if known.is_empty() { "nobody".into() } else { known.join(", ") }
        ));
    }
    Some(parties)
}

/// Whether others will believe us, and whom we can believe: mistakes and notices. Without TLS nobody looks at the
/// certificates of a party file, and PETNet's examples hold none that are real.
fn judge(
    certificate: &Own,
    (party_file, pem_path): (&Path, &Path),
    own: &PartyId,
    parties: &Parties,
) -> (Vec<String>, Vec<String>) {
    let (mut mistakes, mut notices) = (Vec::new(), Vec::new());
    let file = pem_path.join(CERTIFICATE);
    let file = file.display();
    match certificate.certificate().map(|certificate| named(certificate, parties)) {
        Some(Ok(party)) if party == *own => {}
        Some(Ok(party)) => {
            mistakes.push(format!("PEM_PATH: {file} is the certificate of {party}, not of {own}"));
        }
        Some(Err(why @ NoIdentity::Nobody(_))) => {
            notices.push(format!("{file}: {why}; other gateways will not take messages from this one"));
        }
        Some(Err(why)) => mistakes.push(format!("PEM_PATH: {file}: {why}")),
        None => {}
    }
    for (party, connections) in &parties.parties {
        for (n, connection) in
            connections.iter().enumerate().filter(|(_, c)| !c.certificates.trim().is_empty())
        {
            if let Err(why) = tls::roots(&connection.certificates) {
                mistakes.push(format!("{}: {party}.petnet[{n}].certificates: {why}", party_file.display()));
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
        if connections.iter().any(|c| c.url.starts_with("http://")) {
            notices.push(format!("messages to {party} go in PLAINTEXT: its url begins with http://"));
        } else if !connections.is_empty() && !has_roots(party) {
            notices.push(format!(
                "the party file has no certificates for {party}: nothing can be delivered to it, nor it to us"
            ));
        }
    }
    (mistakes, notices)
}
