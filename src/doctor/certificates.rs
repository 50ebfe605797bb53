//! Certificates: ours, and the roots by which the parties are known.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::certs::explain::{self, Explained, Purpose, Validity};
use crate::config::Settings;
use crate::parties::Parties;
use crate::tls::CERTIFICATE;

/// Certificates that expire sooner are worth a word.
const SOON_DAYS: i64 = 30;

pub(super) fn examine(settings: &Settings, parties: &Parties) -> Vec<Finding> {
    if settings.own_certificate.is_none() {
        return vec![Finding::warning(
            "none: everything goes in plaintext",
            "petnet certs init makes some; without them keep the gateway on a trusted network",
        )];
    }
    let file = settings.pem_path.join(CERTIFICATE);
    let mut findings = match std::fs::read(&file) {
        Ok(pem) => of_pem(&pem, &file.display().to_string(), "petnet certs init --renew makes a new one"),
        Err(why) => vec![Finding::bad(
            format!("{}: {why}", file.display()),
            "give the user of this gateway read access",
        )],
    };
    for (party, connections) in &parties.parties {
        for (n, connection) in connections.iter().enumerate().filter(|(_, c)| !c.certificates.is_empty()) {
            let name = format!("root of {party} (connection {n} of the party file)");
            let advice = format!("ask {party} for its next root, and put both into the party file");
            findings.extend(of_pem(connection.certificates.as_bytes(), &name, &advice));
        }
    }
    findings
}

fn of_pem(pem: &[u8], name: &str, advice: &str) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    match explain::all(pem) {
        Ok(all) => all.iter().map(|one| of_one(one, name, advice, now)).collect(),
        Err(why) => vec![Finding::bad(format!("{name}: {why}"), advice)],
    }
}

fn of_one(one: &Explained, name: &str, advice: &str, now: i64) -> Finding {
    let of = one.parties.first().map_or(one.subject.as_str(), String::as_str);
    let what = match one.purpose {
        Purpose::Serving => {
            return Finding::bad(
                format!("{name}: {of}: is good for serving only, and peers are shown it, too"),
                "have one made that is good for clients as well (extended key usage clientAuth)",
            );
        }
        _ => format!("{name}: {of}"),
    };
    match one.validity(now) {
        Validity::Now(days) if days >= SOON_DAYS => Finding::good(format!("{what}: valid for {days} days")),
        Validity::Now(days) => Finding::warning(format!("{what}: expires in {days} days"), advice),
        Validity::Expired(days) => Finding::bad(format!("{what}: expired {days} days ago"), advice),
        Validity::NotYet(days) => {
            Finding::bad(format!("{what}: valid in {days} days only"), "is the clock of this machine right?")
        }
    }
}
