//! `petnet certs`: makes certificates of a party, and says what one is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use petnet_storage::PartyId;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Exit;
use super::local::say;
use crate::certs::explain::{self, Explained, Purpose, Validity};
use crate::certs::folder::{self, Lifetimes};
use crate::certs::make::{Names, is_dns_name};
use crate::tls;

/// Certificates that expire sooner are worth a word.
const SOON_DAYS: i64 = 30;

/// Make certificates of a party, and explain them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet certs init --party party_a --dns gateway.a.example --out ./certs
  petnet certs show ./certs/server.crt
  petnet certs init --party party_a --out ./certs --renew

Exit codes: 0 done; show: valid, 1 failed; show: not valid, 2 wrong arguments")]
pub(crate) struct Certs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(Init),
    Show(Show),
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
struct Init {
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

Exit codes: 0 valid, 1 not valid or not readable, 2 wrong arguments")]
struct Show {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// For machines
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
            Command::Init(init) => init.run(),
            Command::Show(show) => show.run(),
        }
    }
}

impl Init {
    fn run(self) -> Exit {
        let given = Names { dns: self.dns.clone(), ip: self.ip.clone() };
        let is_given = given != Names::default();
        let done = if self.renew {
            folder::renew(&self.out, &self.party, is_given.then_some(given), self.days)
        } else {
            let names = if is_given { given } else { Names::this_machine() };
            let days = Lifetimes { authority: self.ca_days, others: self.days };
            folder::make(&self.out, &self.party, &names, days)
        };
        if let Err(why) = done {
            eprintln!("petnet certs: {why}");
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

impl Show {
    fn run(self) -> Exit {
        let read = std::fs::read(&self.file).map_err(|e| e.to_string());
        let (all, pem) = match read.and_then(|pem| explain::all(&pem).map(|all| (all, pem))) {
            Ok(found) => found,
            Err(why) => {
                eprintln!("petnet certs: {}: {why}", self.file.display());
                return Exit::WrongSettings;
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed());
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
        if self.json {
            say(&serde_json::json!({ "certificates": all, "wrong": wrong }).to_string());
        } else {
            for why in &wrong {
                say(&format!("WRONG: {why}"));
            }
        }
        if wrong.is_empty() { Exit::Ok } else { Exit::Failed }
    }
}

fn wrongs(one: &Explained, n: usize, of: usize, now: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    let place = format!("certificate {}", n + 1);
    match one.validity(now) {
        Validity::Now(_) => {}
        Validity::Expired(days) => wrong.push(format!("{place} expired {days} days ago; make a new one")),
        Validity::NotYet(days) => {
            wrong.push(format!("{place} is not valid before {days} days from now; is the clock right?"));
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

fn explained(one: &Explained, now: i64) -> Vec<String> {
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
    if matches!(one.purpose, Purpose::Serving | Purpose::Neither) {
        lines.push(
            "note: it does not say \"client authentication\": as a gateway's, peers will refuse it".into(),
        );
    }
    if matches!(one.validity(now), Validity::Now(days) if days < SOON_DAYS) {
        lines.push("note: it expires soon; petnet certs init --renew makes a new one".into());
    }
    lines
}

fn party_line(one: &Explained) -> String {
    match one.parties.as_slice() {
        [] if one.purpose == Purpose::Authority => "none (an authority needs none)".into(),
        [] if one.dns.is_empty() => "none: nobody will know whose it is".into(),
        [] => "none by URI; gateways go by the DNS names: a party's id, or the host of its url in the party file".into(),
        [one] => one.clone(),
        several => format!("{} (several: gateways will refuse it)", several.join(", ")),
    }
}

fn purposes(one: &Explained) -> &'static str {
    match one.purpose {
        Purpose::Authority => "signing certificates (an authority)",
        Purpose::Both => "serving, calling",
        Purpose::Serving => "serving",
        Purpose::Calling => "calling",
        Purpose::Neither => "neither serving nor calling",
    }
}

fn left(one: &Explained, now: i64) -> String {
    match one.validity(now) {
        Validity::Now(days) => format!("{days} days left"),
        Validity::Expired(days) => format!("EXPIRED {days} days ago"),
        Validity::NotYet(days) => format!("NOT VALID before {days} days from now"),
    }
}

/// What is wrong with the key of the same name, where there is one.
fn key_beside(file: &Path, pem: &[u8], tell: bool) -> Option<String> {
    let path = file.with_extension("key");
    if path == file || !path.exists() {
        return None;
    }
    let shown = path.display();
    let key = match std::fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| {
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| format!("no private key in it: {e}"))
    }) {
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
