//! The settings as given: one table defines the flags, the environment variables, their help and their defaults.
//!
//! Invariant: nothing is judged here. A value is text with the place it came from, so that `config` can report every
//! mistake at once; clap would stop at the first.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::misspelt;
use crate::rules::mistake::Mistake;
use crate::rules::text;

/// One setting: an environment variable and the flag of the same name.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name of the environment variable; the flag is the same in lower case with dashes.
    pub name: &'static str,
    /// Alternative name of the environment variable, looked up when the first is not set.
    pub other_name: Option<&'static str>,
    /// The value when nothing is given.
    pub default: Option<&'static str>,
    /// Placeholder in the help.
    pub value: &'static str,
    /// One line for the help.
    pub help: &'static str,
}

/// Appended to the name of a setting whose value is the default.
const DEFAULT: &str = " (default)";

const fn setting(
    name: &'static str,
    default: Option<&'static str>,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, other_name: None, default, value, help }
}

/// All settings, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    setting("PARTY", None, "ID", "Our own party id; must be in the party file (required)"),
    setting("CONFIG_FILE_PATH", Some("/app/parties/party.json"), "FILE", "The party file"),
    setting(
        "DATA_DIR",
        Some("/app/data"),
        "DIR",
        "The data folder; created if only its last part is missing",
    ),
    setting(
        "LISTEN_ADDR",
        Some("[::]:1235"),
        "IP:PORT",
        "Where clients and peers connect; port 0 picks a free one",
    ),
    setting("HTTP_LISTEN_ADDR", Some("127.0.0.1:1236"), "IP:PORT", "Metrics and status page; `off`: neither"),
    setting(
        "MESSAGE_TTL",
        Some("3600"),
        "TIME",
        "How long a message stays after it was first read; 0 = for ever",
    ),
    setting(
        "UNREAD_TTL",
        Some("604800"),
        "TIME",
        "How long a message that nobody read stays, before it becomes a dead letter; 0 = for ever",
    ),
    setting("SEND_TTL", Some("604800"), "TIME", "How long a message may wait for its peer; 0 = for ever"),
    setting(
        "RECV_WAIT_MS",
        Some("1000"),
        "MS",
        "How long a receive waits for its message; 0 = answer at once",
    ),
    setting(
        "MAX_MESSAGE_BYTES",
        Some("256MiB"),
        "SIZE",
        "Largest message in one call; streams take larger ones",
    ),
    setting(
        "MAX_STREAM_BYTES",
        Some("0"),
        "SIZE",
        "Largest message that comes in pieces; 0 = what there is room for",
    ),
    setting(
        "MAX_UPLOADS",
        Some("128"),
        "N",
        "Messages that come in pieces at a time, interrupted ones included",
    ),
    setting(
        "STORE_MAX_BYTES",
        Some("0"),
        "SIZE",
        "Bytes that messages may take; 0 = what the disk has, less a reserve",
    ),
    setting(
        "DEAD_LETTER_MAX_BYTES",
        Some("64MiB"),
        "SIZE",
        "Bytes that dead letters may take; beyond it the oldest are dropped; 0 = no limit",
    ),
    setting(
        "MESSAGE_ID_REUSE",
        Some("replace"),
        "WORD",
        "The same id again: `replace`, or `reject` other bytes",
    ),
    setting("SHUTDOWN_GRACE", Some("10"), "TIME", "How long running calls may take to end at shutdown"),
    setting("MAX_CONNECTIONS", Some("1024"), "N", "Connections served at a time"),
    setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        Some("512"),
        "N",
        "Of them, from one address (IPv6: from one /64 network)",
    ),
    setting("MAX_STREAMS", Some("256"), "N", "Calls on one connection at a time"),
    setting("MAX_HEADER_BYTES", Some("16KiB"), "SIZE", "Headers of one call"),
    setting(
        "MAX_CALL_BYTES",
        Some("0"),
        "SIZE",
        "Messages of all calls in memory at a time; 0 = twice MAX_MESSAGE_BYTES, at least 64 MiB",
    ),
    setting(
        "HANDSHAKE_TIMEOUT",
        Some("10"),
        "TIME",
        "A connection that has not begun to speak after so long is closed",
    ),
    setting(
        "STALL_TIMEOUT",
        Some("30"),
        "TIME",
        "A connection on which a call's message does not move for so long is cut",
    ),
    setting(
        "CONNECTION_AGE",
        Some("30m"),
        "TIME",
        "After it a connection takes no new calls, after twice as long it is cut",
    ),
    setting(
        "KEEPALIVE_INTERVAL",
        Some("30"),
        "TIME",
        "How often connections are asked whether they are there",
    ),
    setting("KEEPALIVE_TIMEOUT", Some("20"), "TIME", "How long their answer may take"),
    setting(
        "MAX_WAITING",
        Some("16384"),
        "N",
        "Receives that may wait at a time; further ones are answered at once",
    ),
    setting("MAX_SUBSCRIPTIONS", Some("16384"), "N", "Subscriptions of streams to ids and topics at a time"),
    setting("MAX_IN_FLIGHT", Some("2048"), "N", "Deliveries under way per peer"),
    setting(
        "MAX_IN_FLIGHT_BYTES",
        Some("64MiB"),
        "SIZE",
        "Payload bytes under way per peer; four larger messages may go besides",
    ),
    setting(
        "LINK_STALL",
        Some("30"),
        "TIME",
        "A delivery whose connection does not move for so long is begun anew; one that moves is never cut",
    ),
    setting(
        "LINK_WINDOW",
        Some("8MiB"),
        "SIZE",
        "Bytes of large messages sent to a peer and not yet durable there, per connection",
    ),
    setting(
        "LINK_RESUME",
        Some("10m"),
        "TIME",
        "How long what came of a large message is kept when its connection breaks, to go on there",
    ),
    setting("RETRY_CAP", Some("30"), "TIME", "Longest pause between attempts at one peer"),
    setting(
        "PEM_PATH",
        Some("/app/certs"),
        "DIR",
        "Folder of server.crt and server.key: with them TLS, without them plaintext",
    ),
    setting(
        "TLS_CLIENT_AUTH",
        Some("required"),
        "WORD",
        "Client certificates: `required` or `optional` (no effect without TLS)",
    ),
    setting(
        "ENV",
        None,
        "NAME",
        "Name of the environment; one that starts with `prod` refuses to start without TLS, and on a Redis that can lose messages",
    ),
    setting(
        "REDIS_URL",
        None,
        "URL",
        "Keep messages in Redis instead of the data folder: redis://, rediss://, redis+sentinel://, or several nodes of a cluster",
    ),
    setting(
        "REDIS_URL_FILE",
        None,
        "FILE",
        "Read REDIS_URL from this file, so that its password is in no environment and no list of processes",
    ),
    setting(
        "REDIS_WAIT_REPLICAS",
        Some("0"),
        "N",
        "Replicas that must have a message before it is accepted (WAIT)",
    ),
    setting(
        "REDIS_TIMEOUT",
        Some("5"),
        "TIME",
        "How long an answer of Redis may take, and calls wait for a lost one",
    ),
    setting(
        "REDIS_SETTINGS",
        Some("same"),
        "same|set",
        "set: lifetimes, quotas and MESSAGE_ID_REUSE of this gateway become those of all on this Redis; same: refused if others run with other ones",
    ),
    setting(
        "REDIS_ALLOW_VOLATILE",
        Some("0"),
        "0|1",
        "1: work also on a Redis that evicts, or under ENV=prod one that can lose accepted messages",
    ),
    setting(
        "REDIS_PEM_PATH",
        None,
        "DIR",
        "For rediss://: folder of ca.crt (else the system's roots), and of client.crt and client.key if Redis wants one",
    ),
    setting(
        "LOGGING_LEVEL",
        Some("INFO"),
        "LEVEL",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL, or a number, as in Python; RUST_LOG overrides it",
    ),
    Setting {
        name: "LOGGING_MODE",
        other_name: Some("LOGGING_STYLE"),
        default: Some("default"),
        value: "MODE",
        help: "`default`, or `async` for buffered logging; LOGGING_STYLE is read too",
    },
    setting("LOGGING_FORMAT", Some("text"), "WORD", "`text`, or `json` for one JSON object per line"),
    setting(
        "LOGGING_DIR",
        None,
        "DIR",
        "Folder of petnet.log, written besides stderr; created if only its last part is missing",
    ),
    setting(
        "LOGGING_FILE_BYTES",
        Some("16MiB"),
        "SIZE",
        "petnet.log of so many bytes becomes petnet.log.1, and a new one begins",
    ),
    setting("LOGGING_FILES", Some("8"), "N", "Log files kept, petnet.log included; the oldest is removed"),
];

impl Setting {
    fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.flag())
            .env(self.name)
            // A value may be a secret, and help that differs between machines is of no use.
            .hide_env_values(true)
            .value_name(self.value)
            .value_parser(clap::value_parser!(OsString))
            .help(self.help);
        match self.default {
            Some(default) => arg.default_value(default),
            None => arg,
        }
    }
}

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(crate) struct GivenValue {
    pub(crate) value: String,
    /// `LISTEN_ADDR`, `--listen-addr`, or `LISTEN_ADDR (default)`.
    pub(crate) place: String,
}

impl GivenValue {
    /// Whether the value is the default, because nobody gave one.
    pub(crate) fn is_default(&self) -> bool {
        self.place.ends_with(DEFAULT)
    }
}

/// The settings as given on the command line and in the environment.
#[derive(Debug, Clone, Default)]
pub struct RawSettings {
    given: BTreeMap<&'static str, GivenValue>,
    /// Notices about names in the environment that are probably misspelt; one line each.
    pub(crate) misspelt: Vec<String>,
}

impl RawSettings {
    /// The defaults with `values` on top, for tests and programs that embed a gateway.
    pub fn from_values<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut raw = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                raw.put(setting.name, default.into(), format!("{}{DEFAULT}", setting.name));
            }
        }
        for (name, value) in values {
            if let Some(setting) = SETTINGS.iter().find(|s| s.name == name) {
                raw.put(setting.name, value.into(), name.into());
            }
        }
        raw
    }

    pub(crate) fn get(&self, name: &str) -> Option<&GivenValue> {
        self.given.get(name)
    }

    /// These settings; where `REDIS_URL_FILE` names a file, with the `REDIS_URL` read from it.
    pub(crate) fn with_redis_url(&self) -> Result<Self, Mistake> {
        let mut read = self.clone();
        let Some(file) = self.get("REDIS_URL_FILE") else { return Ok(read) };
        if let Some(url) = self.get("REDIS_URL") {
            return Err(format!("{}: {} is given as well; give one of the two", file.place, url.place).into());
        }
        let url = redis_url(Path::new(&file.value)).map_err(|why| why.at(&file.place))?;
        read.put("REDIS_URL", url, file.place.clone());
        Ok(read)
    }

    /// Stores a value. An empty one counts as not given: compose files often pass `REDIS_URL=`.
    fn put(&mut self, name: &'static str, value: String, place: String) {
        if !value.is_empty() {
            self.given.insert(name, GivenValue { value, place });
        }
    }

    fn read(&mut self, matches: &ArgMatches) {
        let names: Vec<_> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        self.misspelt = misspelt::suspects(names.iter().map(String::as_str));
        for setting in SETTINGS {
            let default = || setting.default.map(|d| (d.to_string(), format!("{}{DEFAULT}", setting.name)));
            let text = |value: &OsString| value.to_string_lossy().into_owned();
            let given = matches.get_one::<OsString>(setting.name).map(text);
            let found = match (matches.value_source(setting.name), given) {
                (Some(ValueSource::CommandLine), Some(value)) => {
                    Some((value, format!("--{}", setting.flag())))
                }
                (Some(ValueSource::EnvVariable), Some(value)) if !value.is_empty() => {
                    Some((value, setting.name.to_string()))
                }
                _ => setting
                    .other_name
                    .and_then(|name| Some((text(&std::env::var_os(name)?), name.to_string())))
                    .filter(|(value, _)| !value.is_empty())
                    .or_else(default),
            };
            if let Some((value, place)) = found {
                self.put(setting.name, value, place);
            }
        }
    }
}

/// The only line of the file, which is never shown.
pub(crate) fn redis_url(file: &Path) -> Result<String, Mistake> {
    let text = text::read(file)
        .map_err(|why| Mistake::of_io(format!("cannot read {}: {why}", file.display()), &why))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(url), None) => Ok(url.to_owned()),
        _ => Err(format!("{} must hold one line, the url", file.display()).into()),
    }
}

impl clap::FromArgMatches for RawSettings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut raw = Self::default();
        raw.read(matches);
        Ok(raw)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.read(matches);
        Ok(())
    }
}

impl clap::Args for RawSettings {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(Setting::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
