//! `petnet certs`: makes certificates for a party, and explains existing ones.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petnet_storage::PartyId;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::say::{say, say_json};
use crate::cli::terminal::table::escape;
use crate::rules::parties::{Connection, ConnectionType, Parties};
use crate::rules::{regular, text};
use crate::tls;
use crate::tls::certs::explain::{self, ExplainedCertificate, Purpose, Validity};
use crate::tls::certs::folder::{self, Lifetimes};
use crate::tls::certs::make::{GatewayNames, is_dns_name};
use crate::tls::certs::pem;
use crate::tls::words::{GOOD_KEYS, unusable_key};
use crate::tls::{CERTIFICATE, CertificateUse};

/// Days before its expiry from which a certificate is worth a warning.
const SOON_DAYS: i64 = 30;

/// Most files of a folder that are named.
const NAMED: usize = 20;

/// Make certificates of a party, and explain them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet certs init --party party_a --dns gateway.a.example --out ./certs
  petnet certs show ./certs/server.crt
  petnet certs init --party party_a --out ./certs --renew

Exit codes: 0 done; show: valid, 1 failed; show: not valid, 2 wrong arguments; show: no certificate that can be read")]
pub(crate) struct Certs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CertsCommand {
    Init(CertsInit),
    Show(CertsShow),
}

/// Make an authority for a party, and certificates for its gateway and its programs.
///
/// Writes ca.crt, server.crt and client.crt with their keys (mode 0600). Nothing that is there is overwritten, but for
/// server and client with --renew.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet certs init --party party_a --dns gateway.a.example --out ./certs
  petnet certs init --party party_a --out ./certs --renew

Exit codes: 0 made, 1 failed, 2 wrong arguments")]
struct CertsInit {
    /// The party
    #[arg(long, value_name = "ID", value_parser = party)]
    party: PartyId,
    /// A DNS name under which peers and programs call the gateway; may be given several times [default: localhost]
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    dns: Vec<String>,
    /// An address under which they call it; may be given several times [default: this machine's, without --dns]
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// The folder, made if it is not there
    #[arg(long, value_name = "DIR", default_value = "certs")]
    out: PathBuf,
    /// How long the certificates of gateway and programs are valid, in days
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().others, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// How long the authority is valid, in days
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().authority, value_parser = clap::value_parser!(u32).range(1..=36500))]
    ca_days: u32,
    /// New certificates for gateway and programs by the authority that is there; a running gateway takes them up
    #[arg(long)]
    renew: bool,
}

/// Explain every certificate in a PEM file.
///
/// Exit code 1 when one is not valid now, is not signed by the next one in the file, or its key beside it is not its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petnet certs show ./certs/server.crt

Exit codes: 0 valid, 1 not valid, 2 wrong arguments, or the file has no certificate that can be read")]
struct CertsShow {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON instead of text, for programs
    #[arg(long)]
    json: bool,
}

fn party(text: &str) -> Result<PartyId, String> {
    PartyId::new(text).map_err(|e| e.to_string())
}

fn dns_name(text: &str) -> Result<String, String> {
    if is_dns_name(text) { Ok(text.to_owned()) } else { Err("not a DNS name; addresses go with --ip".into()) }
}

impl Certs {
    pub(crate) fn run(self) -> Exit {
        match self.command {
            CertsCommand::Init(init) => init.run(),
            CertsCommand::Show(show) => show.run(),
        }
    }
}

impl CertsInit {
    fn run(self) -> Exit {
        let given = GatewayNames { dns: self.dns.clone(), ip: self.ip.clone() };
        let is_given = given != GatewayNames::default();
        let done = if self.renew {
            folder::renew(&self.out, &self.party, is_given.then_some(given), self.days)
        } else {
            let names = if is_given { given } else { GatewayNames::this_machine() };
            let days = Lifetimes { authority: self.ca_days, others: self.days };
            folder::make(&self.out, &self.party, &names, days)
        };
        if let Err(why) = done {
            complain!("petnet certs: {why}");
            return Exit::Failed;
        }
        self.tell();
        Exit::Ok
    }

    fn tell(&self) {
        let file = |name: &str| self.out.join(name).display().to_string();
        let out = self.out.display();
        say(&format!("Certificates of {} are in {out}:", self.party));
        if !self.renew {
            say(&format!(
                "  ca.crt      goes to every other party: into its party file, as \"certificates\" of {}",
                self.party
            ));
            say("              and into our own party file, so that the gateway knows our programs");
            say("  ca.key      signs new certificates; keep it off the gateway's machine if you can");
        }
        say("  server.crt  the gateway's, with server.key: the folder goes to the gateway as PEM_PATH");
        say("  client.crt  for our programs, with client.key");
        for name in ["server.crt", "client.crt"] {
            if let Ok(Some(first)) = std::fs::read(file(name))
                .map(|pem| explain::all(&pem).ok().and_then(|all| all.into_iter().next()))
            {
                say(&format!("  {name} is valid until {}", date(first.valid_until)));
            }
        }
        say(&format!("See what is in one:  petnet certs show {}", file("server.crt")));
    }
}

impl CertsShow {
    fn run(self) -> Exit {
        let read = regular::read_any(&self.file).map_err(|why| match why.kind() {
            ErrorKind::IsADirectory => is_a_folder(&self.file),
            _ => why.to_string(),
        });
        let (all, pem) = match read.and_then(|pem| explain::all(&pem).map(|all| (all, pem))) {
            Ok(found) => found,
            Err(why) => {
                complain!("petnet certs: {}: {why}", self.file.display());
                return Exit::WrongSettings;
            }
        };
        let now = explain::now();
        let mut wrong = Vec::new();
        for (n, one) in all.iter().enumerate() {
            if !self.json {
                say(&format!("Certificate {} of {}", n + 1, all.len()));
                for line in explained(one, now) {
                    say(&format!("  {line}"));
                }
            }
            wrong.extend(wrongs(one, n, all.len(), now));
        }
        wrong.extend(key_beside(&self.file, &pem, !self.json));
        let notes = notes(&self.file, &pem, &all[0]);
        if self.json {
            say_json(&serde_json::json!({ "certificates": all, "notes": notes, "wrong": wrong }));
        } else {
            for note in &notes {
                say(&format!("note: it {note}"));
            }
            for why in &wrong {
                say(&format!("WRONG: {why}"));
            }
        }
        if wrong.is_empty() { Exit::Ok } else { Exit::Failed }
    }
}

/// What to say of a folder: it names the files in it that may be meant.
fn is_a_folder(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let has_one = |file: &Path| {
        let found = file.extension().is_none_or(|end| end != "key").then(|| regular::read(file));
        matches!(found, Some(Ok(pem)) if pem::certificates(&pem).is_ok())
    };
    let meant = files.map(|file| file.path()).filter(|file| has_one(file));
    let mut names: Vec<_> =
        meant.filter_map(|file| Some(escape(&file.file_name()?.to_string_lossy()))).take(NAMED).collect();
    names.sort();
    if names.is_empty() {
        return "it is a folder, and there is no file with a certificate in it; name a file".into();
    }
    format!("it is a folder; name one of the files with certificates in it: {}", names.join(", "))
}

fn wrongs(one: &ExplainedCertificate, n: usize, of: usize, now: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    let place = format!("certificate {}", n + 1);
    match one.validity(now) {
        Validity::Now(_) => {}
        Validity::Expired(days) => {
            wrong.push(format!("{place} expired {} ago; make a new one", text::days(days)));
        }
        Validity::NotYet(days) => {
            wrong.push(format!(
                "{place} is not valid before {} from now; is the clock right?",
                text::days(days)
            ));
        }
    }
    if n + 1 < of && !one.signed_by_next {
        wrong.push(format!(
            "{place} is not signed by certificate {}; each must be followed by its issuer's",
            n + 2
        ));
    }
    wrong
}

fn explained(one: &ExplainedCertificate, now: i64) -> Vec<String> {
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut lines = vec![
        format!("subject    {}", one.subject),
        format!("party      {}", party_line(one)),
        format!("DNS names  {}", list(&one.dns)),
        format!("addresses  {}", list(&one.ip)),
        format!("URIs       {}", list(&one.uris)),
        format!("issuer     {}{}", one.issuer, if one.issuer == one.subject { " (itself)" } else { "" }),
        format!("serial     {}", one.serial),
        format!("valid      {} to {} ({})", date(one.valid_from), date(one.valid_until), left(one, now)),
        format!("key        {}", one.key),
        format!("for        {}", purposes(one)),
    ];
    if matches!(one.validity(now), Validity::Now(days) if days < SOON_DAYS) {
        lines.push("note: it expires soon; petnet certs init --renew makes a new one".into());
    }
    lines
}

fn party_line(one: &ExplainedCertificate) -> String {
    match one.parties.as_slice() {
        [] if one.purpose == Purpose::Authority => "none (an authority needs none)".into(),
        [] if one.dns.is_empty() => "none: nobody will know whose it is".into(),
        [] => "none by URI; gateways go by the DNS names: a party's id, or the host of its url in the party file".into(),
        [one] => one.clone(),
        several => format!("{} (several: gateways will refuse it)", several.join(", ")),
    }
}

fn purposes(one: &ExplainedCertificate) -> &'static str {
    match one.purpose {
        Purpose::Authority => "signing certificates (an authority)",
        Purpose::Both => "serving, calling",
        Purpose::Serving => "serving",
        Purpose::Calling => "calling",
        Purpose::Neither => "neither serving nor calling",
    }
}

fn left(one: &ExplainedCertificate, now: i64) -> String {
    match one.validity(now) {
        Validity::Now(days) => format!("{} left", text::days(days)),
        Validity::Expired(days) => format!("EXPIRED {} ago", text::days(days)),
        Validity::NotYet(days) => format!("NOT VALID before {} from now", text::days(days)),
    }
}

/// Why gateways will not believe a certificate, by the same judgement as `petnet doctor` and the start of a gateway, as far
/// as this folder shows it: by the authority beside it, where there is one, and under the name that it has. A file
/// `server.crt` counts as a gateway's whatever is in it.
fn notes(file: &Path, pem: &[u8], first: &ExplainedCertificate) -> Vec<String> {
    let names = || first.dns.iter().chain(&first.ip);
    let is_gateways = file.file_name().is_some_and(|name| name == CERTIFICATE);
    let is_root = first.purpose == Purpose::Authority && first.uris.is_empty() && names().next().is_none();
    let Ok(chain) = pem::certificates(pem) else { return Vec::new() };
    if is_root && !is_gateways {
        return Vec::new();
    }
    let shown_as = if first.purpose == Purpose::Calling && !is_gateways {
        CertificateUse::Program
    } else {
        CertificateUse::Gateway
    };
    let name = names().find(|name| ServerName::try_from((*name).clone()).is_ok());
    let mut notes = Vec::new();
    if let Some((own, parties)) = entry(file, first, name) {
        notes.extend(tls::disbelieved(&chain, shown_as, &own, &Arc::new(parties)));
    }
    if let Some(kind) = unusable_key(&chain[0]) {
        notes.push(format!("cannot be used: {kind}; {GOOD_KEYS}"));
    }
    if shown_as == CertificateUse::Gateway && name.is_none() {
        notes.push(
            "has no DNS name and no address: as a gateway's, nobody will believe it, however it is called"
                .into(),
        );
    }
    notes
}

/// What a party file would say of the party that the certificate names, with that name and with the authority beside it.
fn entry(file: &Path, first: &ExplainedCertificate, name: Option<&String>) -> Option<(PartyId, Parties)> {
    /// A port to complete the address; nobody connects to it.
    const PORT: u16 = 1235;
    let own = first.parties.first().or(name).map_or("its party", String::as_str);
    let own = PartyId::new(own).ok()?;
    let host = name.map_or("-", String::as_str);
    let url = if host.contains(':') { format!("[{host}]:{PORT}") } else { format!("{host}:{PORT}") };
    let beside = file.with_file_name("ca.crt");
    let roots = regular::read(&beside).ok().filter(|_| beside != file);
    let roots = roots.filter(|pem| pem::certificates(pem).is_ok()).unwrap_or_default();
    let connection = Connection {
        kind: ConnectionType::Direct,
        url,
        certificates: String::from_utf8_lossy(&roots).into_owned(),
        whitelist: Vec::new(),
    };
    Some((own.clone(), Parties { parties: [(own, vec![connection])].into() }))
}

/// What is wrong with the key file of the same name, where there is one.
fn key_beside(file: &Path, pem: &[u8], tell: bool) -> Option<String> {
    let path = file.with_extension("key");
    if path == file || !path.exists() {
        return None;
    }
    let shown = path.display();
    let key = match regular::read(&path).map_err(|e| e.to_string()).and_then(|bytes| pem::private_key(&bytes))
    {
        Ok(key) => key,
        Err(why) => return Some(format!("{shown}: {why}")),
    };
    match tls::key_fits(pem, key) {
        Ok(()) => {
            if tell {
                say(&format!("{shown} is its key"));
            }
            None
        }
        Err(why) => Some(format!("{shown}: {why}")),
    }
}

fn date(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    time.unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::testing::party;
    use crate::tls::certs::make::{Authority, WantedCertificate};

    #[test]
    fn what_no_gateway_will_believe_is_noted_by_the_authority_beside() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) =
            (Authority::new(&party("a"), 9).unwrap(), Authority::new(&party("a"), 9).unwrap());
        let told_of = |name: &str, pem: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, pem).unwrap();
            notes(&file, pem.as_bytes(), &explain::all(pem.as_bytes()).unwrap()[0])
        };
        let told = |pem: &str| told_of("server.crt", pem);
        let gateway = |authority: &Authority, names: &GatewayNames| {
            authority.issue(&WantedCertificate::gateway(&party("a"), names, 9).unwrap()).unwrap().certificate
        };
        let here = GatewayNames::this_machine();
        assert_eq!(told(&gateway(&ours, &here)), Vec::<String>::new(), "nobody is beside it");
        std::fs::write(folder.path().join("ca.crt"), ours.pair().certificate).unwrap();
        assert_eq!(told(&gateway(&ours, &here)), Vec::<String>::new());
        let program = ours.issue(&WantedCertificate::program(&party("a"), 9).unwrap()).unwrap();
        assert_eq!(
            told_of("client.crt", &program.certificate),
            Vec::<String>::new(),
            "a program serves nobody"
        );
        assert!(
            told(&program.certificate).iter().any(|note| note.contains("has no DNS name")),
            "but here it should"
        );
        let notes = told(&gateway(&other, &here));
        assert!(
            notes.len() == 1 && notes[0].contains("is not signed by any of the certificates"),
            "{notes:?}"
        );
    }

    /// It used to be shown as "an authority" with nothing wrong with it.
    #[test]
    fn an_authority_without_names_is_judged_where_it_stands_for_a_gateways() {
        let folder = tempfile::tempdir().unwrap();
        let pem = Authority::new(&party("a"), 9).unwrap().pair().certificate;
        let told = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, &pem).unwrap();
            notes(&file, pem.as_bytes(), &explain::all(pem.as_bytes()).unwrap()[0])
        };
        assert_eq!(told("ca.crt"), Vec::<String>::new());
        std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
        for beside in [false, true] {
            let notes = told("server.crt").join("\n");
            for part in ["is that of an authority", "tells no party", "has no DNS name and no address"] {
                assert!(notes.contains(part), "beside its own: {beside}: no {part:?} in {notes}");
            }
            told("ca.crt");
        }
    }
}
