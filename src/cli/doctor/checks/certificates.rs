//! Certificates: our own, as peers will judge it, and the roots by which the parties are known.

use super::Finding;
use crate::config::Settings;
use crate::config::files::not_believed;
use crate::rules::parties::Parties;
use crate::rules::text;
use crate::tls::CERTIFICATE;
use crate::tls::certs::explain::{self, ExplainedCertificate, Validity};
use crate::tls::certs::pem;
use crate::tls::words::{GOOD_KEYS, unusable_root};

/// Days before its expiry from which a certificate is worth a warning.
const SOON_DAYS: i64 = 30;

pub(super) fn examine(settings: &Settings, parties: &Parties) -> Vec<Finding> {
    let Some(own) = &settings.own_certificate else {
        return vec![Finding::warning(
            "none: everything goes in plaintext",
            "petnet certs init makes some; without them keep the gateway on a trusted network",
        )];
    };
    let file = settings.pem_path.join(CERTIFICATE).display().to_string();
    let advice = "petnet certs init --renew makes a new one";
    let mut findings = of_pem(own.certificate_pem(), &file, advice, Finding::bad);
    for why in not_believed(own, &file, &settings.party, parties) {
        findings.push(Finding::bad(
            why,
            format!(
                "have one made that fits what the entry of {} in the party file says (certificates, url); peers have the same \
                 entry",
                settings.party
            ),
        ));
    }
    for (party, connections) in &parties.parties {
        for (n, connection) in
            connections.iter().enumerate().filter(|(_, c)| !c.certificates.trim().is_empty())
        {
            let name = format!("root of {party} (connection {n} of the party file)");
            let advice = format!("ask {party} for its next root, and put both into the party file");
            let certificates = connection.certificates.as_bytes();
            // Gateways do not check the dates of roots, but other programs do.
            findings.extend(of_pem(certificates, &name, &advice, Finding::warning));
            for kind in
                pem::certificates(certificates).unwrap_or_default().iter().filter_map(|c| unusable_root(c))
            {
                findings.push(Finding::bad(
                    format!("{name} proves nothing: {kind}"),
                    format!("for it, {GOOD_KEYS}"),
                ));
            }
        }
    }
    findings
}

/// `over`: how serious it is that a certificate is not valid now.
fn of_pem(pem: &[u8], name: &str, advice: &str, over: fn(String, String) -> Finding) -> Vec<Finding> {
    match explain::all(pem) {
        Ok(all) => all.iter().map(|one| of_one(one, name, advice, over)).collect(),
        Err(why) => vec![Finding::bad(format!("{name}: {why}"), advice)],
    }
}

fn of_one(
    one: &ExplainedCertificate,
    name: &str,
    advice: &str,
    over: fn(String, String) -> Finding,
) -> Finding {
    let of = one.parties.first().map_or(one.subject.as_str(), String::as_str);
    let what = format!("{name}: {of}");
    match one.validity(explain::now()) {
        Validity::Now(days) if days >= SOON_DAYS => {
            Finding::good(format!("{what}: valid for {}", text::days(days)))
        }
        Validity::Now(days) => Finding::warning(format!("{what}: expires in {}", text::days(days)), advice),
        Validity::Expired(days) => over(format!("{what}: expired {} ago", text::days(days)), advice.into()),
        Validity::NotYet(days) => over(
            format!("{what}: valid in {} only", text::days(days)),
            "is the clock of this machine right?".into(),
        ),
    }
}
