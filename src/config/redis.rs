//! The settings of the Redis engine. `REDIS_URL` may hold a password: it is never repeated.

use std::path::Path;
use std::time::Duration;

use petnet_storage::PartyId;
use petnet_storage::redis::{RedisOptions, RedisTls};

use super::{Checker, values};
use crate::rules::mistake::{Mistake, in_a_line};
use crate::rules::regular;
use crate::rules::text::without_marks;

const SECOND: Duration = Duration::from_secs(1);

impl Checker<'_> {
    /// What the engine needs; `None` if the embedded store is meant.
    pub(super) fn redis(&mut self, party: Option<&PartyId>) -> Option<RedisOptions> {
        let given = self.raw.get("REDIS_URL")?.clone();
        // The URL is checked even when it is not known yet whose mailbox it is.
        let nobody = PartyId::new("nobody").ok()?;
        let options = RedisOptions::new(&given.value, party.cloned().unwrap_or(nobody));
        let mut options = match options {
            Ok(options) => options,
            Err(why) => {
                let why = format!("{}: {why} (the value is not shown, it may hold a password)", given.place);
                self.mistakes.push(why.into());
                return None;
            }
        };
        let yes_or_no = [("0", false), ("1", true), ("false", false), ("true", true)];
        options.wait_replicas = self.value("REDIS_WAIT_REPLICAS", 0, |text| match text.parse() {
            Ok(found) if found <= 100 => Ok(found),
            _ => Err("expected a whole number from 0 to 100".into()),
        });
        options.timeout = self
            .value("REDIS_TIMEOUT", SECOND, |text| values::duration_within(text, SECOND / 10, 60 * SECOND));
        options.set_rules = self
            .value("REDIS_SETTINGS", false, |text| values::choice(text, &[("same", false), ("set", true)]));
        options.allow_volatile =
            self.value("REDIS_ALLOW_VOLATILE", false, |text| values::choice(text, &yes_or_no));
        options.tls = self.found("REDIS_PEM_PATH", RedisTls::default(), |text| certificates(Path::new(text)));
        options.strict = self.production().is_some();
        Some(options)
    }
}

/// Options for a URL from a command line; the settings that belong to it come from the environment, as for a gateway.
/// `file:PATH` names the file that holds the URL.
pub(crate) fn redis_options(url: &str, party: &PartyId) -> Result<RedisOptions, String> {
    let read = url.strip_prefix("file:").map(|file| super::raw::redis_url(Path::new(file)));
    let read = read.transpose().map_err(|why| why.to_string())?;
    let url = read.as_deref().unwrap_or(url);
    let names = ["REDIS_TIMEOUT", "REDIS_ALLOW_VOLATILE", "REDIS_PEM_PATH", "REDIS_WAIT_REPLICAS"];
    let given: Vec<_> = names.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect();
    let given = given.iter().map(|(name, value)| (*name, value.as_str())).chain([("REDIS_URL", url)]);
    let raw = super::RawSettings::from_values(given);
    let mut check = Checker { raw: &raw, mistakes: Vec::new(), notices: Vec::new(), memory: None };
    let options = check.redis(Some(party));
    options.filter(|_| check.mistakes.is_empty()).ok_or_else(|| in_a_line(&check.mistakes))
}

/// Reads `ca.crt` and, where Redis demands a certificate, `client.crt` and `client.key`.
fn certificates(folder: &Path) -> Result<RedisTls, Mistake> {
    let read = |name: &str| match regular::read(&folder.join(name)) {
        Ok(pem) => Ok(Some(without_marks(&pem).into_owned())),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Mistake::of_io(format!("cannot read {name} in it: {why}"), &why)),
    };
    let (ca, certificate, key) = (read("ca.crt")?, read("client.crt")?, read("client.key")?);
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("it holds only one of client.crt and client.key; both are needed, or none".into()),
    };
    if ca.is_none() && client.is_none() {
        return Err("it holds neither ca.crt nor client.crt and client.key".into());
    }
    Ok(RedisTls { ca, client })
}
