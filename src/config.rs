//! Settings: raw values from flags and environment become checked ones here, all mistakes at once.
//!
//! A gateway that starts with half of its settings wrong loses time one restart per mistake, and one that guesses
//! loses messages. So [`check`] looks at every setting and at the whole party file before anything starts.
//!
//! Invariant: a [`Checked`] exists only if no mistake was found. Secrets (`REDIS_URL`) are never repeated.

pub(crate) mod files;
mod limits;
mod logging;
mod raw;
#[cfg(feature = "redis")]
mod redis;
mod values;

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use petnet_storage::{IdReuse, PartyId};

pub use logging::{LogFiles, LogFormat, LogLevel, LogMode, Logging};
use raw::Given;
pub use raw::{RawSettings, SETTINGS, Setting};
#[cfg(feature = "redis")]
pub(crate) use redis::redis_options;
pub(crate) use values::lifetime;
pub use values::{duration, size};

use self::files::Files;
use crate::limits::Limits;
use crate::link_api::{PART_BYTES, WINDOW_PARTS};
use crate::parties::Parties;
use crate::tls::{CERTIFICATE, KEY, Own};

/// Protobuf's own limit is 2 GiB for a whole message; the rest is room for the id and the field tags.
const LARGEST_MESSAGE: u64 = (2 << 30) - (1 << 20);
/// The first pause between attempts; a cap below it would not be one.
const SHORTEST_RETRY_CAP: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

/// Checked settings of one gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our own party (`PARTY`).
    pub party: PartyId,
    /// Where clients and peers connect (`LISTEN_ADDR`).
    pub listen_addr: SocketAddr,
    /// Where metrics and the status page are served (`HTTP_LISTEN_ADDR`); `None`: nowhere.
    pub http_listen_addr: Option<SocketAddr>,
    /// That was asked for: without it the gateway does not start.
    pub http_required: bool,
    /// The party file (`CONFIG_FILE_PATH`).
    pub party_file: PathBuf,
    /// Folder of our certificate and key (`PEM_PATH`).
    pub pem_path: PathBuf,
    /// What is in it; `None`: plaintext.
    pub own_certificate: Option<Own>,
    /// `TLS_CLIENT_AUTH`.
    pub tls_client_auth: TlsClientAuth,
    /// The data folder (`DATA_DIR`).
    pub data_dir: PathBuf,
    /// `MESSAGE_TTL`; `None` = never.
    pub message_ttl: Option<Duration>,
    /// `SEND_TTL`; `None` = never.
    pub send_ttl: Option<Duration>,
    /// `RECV_WAIT_MS`.
    pub recv_wait: Duration,
    /// `MAX_MESSAGE_BYTES`.
    pub max_message_bytes: u64,
    /// `MAX_STREAM_BYTES`: of a message that comes in pieces; 0 = what there is room for.
    pub max_stream_bytes: u64,
    /// `MAX_UPLOADS`: messages that come in pieces at a time, interrupted ones included.
    pub max_uploads: usize,
    /// `STORE_MAX_BYTES`; 0 = what the disk has.
    pub store_max_bytes: u64,
    /// `DEAD_LETTER_MAX_BYTES`; 0 = no limit.
    pub dead_letter_max_bytes: u64,
    /// `MESSAGE_ID_REUSE`.
    pub id_reuse: IdReuse,
    /// `SHUTDOWN_GRACE`.
    pub shutdown_grace: Duration,
    /// What protects the server from callers.
    pub limits: Limits,
    /// `MAX_IN_FLIGHT`: deliveries under way per peer.
    pub max_in_flight: usize,
    /// `MAX_IN_FLIGHT_BYTES`: payload bytes under way per peer (four larger messages may go besides).
    pub max_in_flight_bytes: u64,
    /// `LINK_STALL`: an attempt to deliver ends when nothing has moved for so long.
    pub link_stall: Duration,
    /// `LINK_WINDOW`: bytes of large messages sent and not yet durable at the peer, per connection.
    pub link_window: u64,
    /// `LINK_RESUME`: how long what came of a large message is kept when its connection breaks.
    pub link_resume: Duration,
    /// `RETRY_CAP`: longest pause between attempts at one peer.
    pub retry_cap: Duration,
    /// `MAX_WAITING`: receives that may wait at a time; further ones are answered at once.
    pub max_waiting: usize,
    /// `MAX_SUBSCRIPTIONS`: subscriptions of streams at a time.
    pub max_subscriptions: usize,
    /// `REDIS_URL` and what belongs to it; `None`: the embedded store.
    #[cfg(feature = "redis")]
    pub redis: Option<petnet_storage::redis::RedisOptions>,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsClientAuth {
    /// Everyone must.
    Required,
    /// Python PETNet peers, which present none, are let in.
    Optional,
}

/// Everything a gateway starts with.
#[derive(Debug)]
pub struct Checked {
    /// The settings.
    pub settings: Settings,
    /// The parties.
    pub parties: Parties,
    /// How to log.
    pub logging: Logging,
    /// What the operator should know but need not change; one log line each.
    pub notices: Vec<String>,
}

/// All that is wrong with the settings and the party file, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "{n} mistake{} in the settings; nothing was started", if n == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// Checks everything, the party file included. Creates the folders of data and log when they are all that
/// is missing.
pub fn check(raw: &RawSettings) -> Result<Checked, Mistakes> {
    let checked = look(raw)?;
    if raw.get("REDIS_URL").is_none() {
        make_folder("DATA_DIR", &checked.settings.data_dir, 0o700).map_err(|why| Mistakes(vec![why]))?;
    }
    if let Some(files) = &checked.logging.files {
        make_folder("LOGGING_DIR", &files.dir, 0o777).map_err(|why| Mistakes(vec![why]))?;
    }
    Ok(checked)
}

/// The same, and creates nothing.
pub fn look(raw: &RawSettings) -> Result<Checked, Mistakes> {
    let mut check = Checker { raw, mistakes: Vec::new(), notices: Vec::new() };
    let party = check.party();
    let logging = check.logging();
    let (parties, own_certificate) = check.files(party.as_ref());
    let settings = check.settings(party, own_certificate);
    match settings {
        Some(settings) if check.mistakes.is_empty() => {
            Ok(Checked { settings, parties, logging, notices: check.notices })
        }
        _ => Err(Mistakes(check.mistakes)),
    }
}

struct Checker<'a> {
    raw: &'a RawSettings,
    mistakes: Vec<String>,
    notices: Vec<String>,
}

impl Checker<'_> {
    /// Reads one setting. On a mistake it is noted and `stand_in` returned, which nobody will see.
    fn value<T>(&mut self, name: &str, stand_in: T, read: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some(given) = self.raw.get(name) else { return stand_in };
        read(&given.value).unwrap_or_else(|why| {
            self.mistakes.push(format!("{}: {:?}: {why}", given.place, given.value));
            stand_in
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.raw.get(name).map(|given| PathBuf::from(&given.value)).unwrap_or_default()
    }

    fn party(&mut self) -> Option<PartyId> {
        if self.raw.get("PARTY").is_none() {
            self.mistakes.push("PARTY: not set; give our own party id with PARTY or --party".into());
            return None;
        }
        self.value("PARTY", None, |text| PartyId::new(text).map(Some).map_err(|e| e.to_string()))
    }

    /// The party file, and whether there is TLS.
    fn files(&mut self, own: Option<&PartyId>) -> (Parties, Option<Own>) {
        let read = files::read(&self.path("CONFIG_FILE_PATH"), &self.path("PEM_PATH"), own);
        let (found, notices) = read.unwrap_or_else(|mistakes| {
            self.mistakes.extend(mistakes);
            (Files { parties: Parties::default(), own_certificate: None }, Vec::new())
        });
        self.notices.extend(notices);
        if self.mistakes.is_empty() && found.own_certificate.is_none() {
            self.no_tls();
        }
        (found.parties, found.own_certificate)
    }

    /// `ENV`, where it is a name that begins with `prod`.
    fn production(&self) -> Option<&Given> {
        self.raw.get("ENV").filter(|env| env.value.to_ascii_lowercase().starts_with("prod"))
    }

    /// There are no certificates: that is for a trusted network only.
    fn no_tls(&mut self) {
        let folder = self.path("PEM_PATH");
        let folder = folder.display();
        match self.production() {
            Some(env) => self.mistakes.push(format!(
                "{}: {:?} demands TLS, and there is no {CERTIFICATE} and {KEY} in {folder}; make some (petnet certs init), or \
                 use another ENV to serve plaintext",
                env.place, env.value
            )),
            None => self.notices.push(format!(
                "serving PLAINTEXT: there is no {CERTIFICATE} and {KEY} in {folder}; whoever reaches the port can read and \
                 send messages. Keep it on a trusted network"
            )),
        }
    }

    /// Reads every other setting, also when there is no party.
    fn settings(&mut self, party: Option<PartyId>, own_certificate: Option<Own>) -> Option<Settings> {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let second = Duration::from_secs(1);
        let auth = [("required", TlsClientAuth::Required), ("optional", TlsClientAuth::Optional)];
        let reuse = [("replace", IdReuse::Replace), ("reject", IdReuse::Reject)];
        Some(Settings {
            listen_addr: self.value("LISTEN_ADDR", anywhere, values::address),
            http_listen_addr: self.value("HTTP_LISTEN_ADDR", None, |text| match text {
                "off" => Ok(None),
                _ => values::address(text).map(Some),
            }),
            http_required: self.raw.get("HTTP_LISTEN_ADDR").is_some_and(|given| !given.is_default()),
            party_file: self.path("CONFIG_FILE_PATH"),
            pem_path: self.path("PEM_PATH"),
            own_certificate,
            tls_client_auth: self
                .value("TLS_CLIENT_AUTH", TlsClientAuth::Required, |text| values::choice(text, &auth)),
            data_dir: self.data_dir(),
            #[cfg(feature = "redis")]
            redis: self.redis(party.as_ref()),
            message_ttl: self.value("MESSAGE_TTL", None, values::lifetime),
            send_ttl: self.value("SEND_TTL", None, values::lifetime),
            recv_wait: self.value("RECV_WAIT_MS", second, |text| {
                values::milliseconds(text)
                    .and_then(|wait| if wait <= HOUR { Ok(wait) } else { Err("must be at most 1h".into()) })
            }),
            max_message_bytes: self
                .value("MAX_MESSAGE_BYTES", 1, |text| values::size_within(text, 1, LARGEST_MESSAGE)),
            max_stream_bytes: self.value("MAX_STREAM_BYTES", 0, values::size),
            max_uploads: self.value("MAX_UPLOADS", 1, |text| values::count(text, 1 << 16)),
            store_max_bytes: self.value("STORE_MAX_BYTES", 0, values::size),
            dead_letter_max_bytes: self.value("DEAD_LETTER_MAX_BYTES", 0, values::size),
            id_reuse: self.value("MESSAGE_ID_REUSE", IdReuse::Replace, |text| values::choice(text, &reuse)),
            shutdown_grace: self
                .value("SHUTDOWN_GRACE", second, |text| values::duration_within(text, Duration::ZERO, HOUR)),
            limits: self.limits(),
            max_in_flight: self.value("MAX_IN_FLIGHT", 1, |text| values::count(text, 1 << 16)),
            max_in_flight_bytes: self
                .value("MAX_IN_FLIGHT_BYTES", 1, |text| values::size_within(text, 1, 64 << 30)),
            link_stall: self.value("LINK_STALL", second, |text| values::duration_within(text, second, DAY)),
            link_window: self.value("LINK_WINDOW", PART_BYTES as u64, |text| {
                values::size_within(text, PART_BYTES as u64, (WINDOW_PARTS * PART_BYTES) as u64)
            }),
            link_resume: self.value("LINK_RESUME", second, |text| values::duration_within(text, second, DAY)),
            retry_cap: self
                .value("RETRY_CAP", second, |text| values::duration_within(text, SHORTEST_RETRY_CAP, HOUR)),
            max_waiting: self.value("MAX_WAITING", 1, |text| values::count(text, 1 << 24)),
            max_subscriptions: self.value("MAX_SUBSCRIPTIONS", 1, |text| values::count(text, 1 << 24)),
            // Last: whatever stands after it would not be checked without a party.
            party: party?,
        })
    }

    fn data_dir(&mut self) -> PathBuf {
        if let Some(given) = self.raw.get("REDIS_URL") {
            // Nothing is kept in it.
            if cfg!(not(feature = "redis")) {
                self.mistakes.push(format!(
                    "{}: this build has only the embedded store; unset it (the value is not shown, it may hold a password)",
                    given.place
                ));
            }
            return self.path("DATA_DIR");
        }
        self.value("DATA_DIR", PathBuf::new(), |text| {
            let path = PathBuf::from(text);
            check_folder(&path).map(|()| path)
        })
    }
}

/// The parent of a folder; that of a relative name is the working folder.
pub(crate) fn parent_of(folder: &Path) -> &Path {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Looks at a folder of ours without changing anything.
fn check_folder(folder: &Path) -> Result<(), String> {
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => check_writable(folder),
        Ok(_) => Err("exists and is not a folder; choose another folder".into()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let parent = parent_of(folder);
            if parent.is_dir() {
                check_writable(parent)
            } else {
                Err(format!(
                    "does not exist, and neither does {}; create it, or choose another folder",
                    parent.display()
                ))
            }
        }
        Err(why) => Err(format!("cannot be looked at: {why}")),
    }
}

/// A full disk passes: the gateway must start on it and go on delivering.
fn check_writable(folder: &Path) -> Result<(), String> {
    match tempfile::tempfile_in(folder) {
        Err(why)
            if matches!(why.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Err(format!("cannot write in {}: {why}; give this user write access", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Creates a folder if missing. Its name is synced: a power loss must not take the folder with everything
/// accepted in it. `mode`: who may enter, less the umask.
fn make_folder(setting: &str, folder: &Path, mode: u32) -> Result<(), String> {
    let fail = |why: io::Error| format!("{setting}: cannot create {}: {why}", folder.display());
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => File::open(parent_of(folder)).and_then(|parent| parent.sync_all()).map_err(fail),
        Err(_) if folder.is_dir() => Ok(()),
        Err(why) => Err(fail(why)),
    }
}

#[cfg(test)]
mod tests;
