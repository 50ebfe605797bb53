//! Settings: raw values from flags and environment variables are checked here, and all mistakes are reported at once.
//!
//! A gateway that starts with half of its settings wrong costs one restart per mistake, and one that guesses loses
//! messages. So [`check`] looks at every setting and at the whole party file before anything starts.
//!
//! Invariant: a [`Configuration`] exists only if no mistake was found. Secrets (`REDIS_URL`) are never repeated.

mod cgroup;
pub(crate) mod files;
mod idle;
mod limits;
mod logging;
mod misspelt;
mod raw;
#[cfg(feature = "redis")]
mod redis;
mod values;

use crate::tls::client_auth::TlsClientAuth;
use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use petnet_storage::{IdReuse, PartyId};

use raw::GivenValue;
pub(crate) use raw::redis_url;
pub use raw::{RawSettings, SETTINGS, Setting};
#[cfg(feature = "redis")]
pub(crate) use redis::redis_options;
pub(crate) use values::lifetime;
pub use values::{duration, size};

use self::files::FileContents;
use crate::rules::limits::Limits;
use crate::rules::mistake::Mistake;
use crate::rules::parties::Parties;
use crate::telemetry::options::Logging;
use crate::tls::trust::Trust;
use crate::tls::{CERTIFICATE, KEY, OwnCertificate};
use crate::wire::link_limits::{PART_BYTES, WINDOW_PARTS};

/// Protobuf's own limit is 2 GiB for a whole message; the rest is room for the id and the field tags.
const LARGEST_MESSAGE: u64 = (2 << 30) - (1 << 20);
/// The first pause between attempts; a cap below it would not cap anything.
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
    /// Where metrics and the status page are served (`HTTP_LISTEN_ADDR`); `None` if nowhere.
    pub http_listen_addr: Option<SocketAddr>,
    /// Whether that address was asked for: if so, the gateway does not start without it.
    pub http_required: bool,
    /// The party file (`CONFIG_FILE_PATH`).
    pub party_file: PathBuf,
    /// Folder of our certificate and key (`PEM_PATH`).
    pub pem_path: PathBuf,
    /// The certificate and key found in that folder; `None` means plaintext.
    pub own_certificate: Option<OwnCertificate>,
    /// `TLS_CLIENT_AUTH`.
    pub tls_client_auth: TlsClientAuth,
    /// The data folder (`DATA_DIR`).
    pub data_dir: PathBuf,
    /// `UNREAD_TTL`; `None` = never.
    pub unread_ttl: Option<Duration>,
    /// `MESSAGE_TTL`; `None` = never.
    pub message_ttl: Option<Duration>,
    /// `SEND_TTL`; `None` = never.
    pub send_ttl: Option<Duration>,
    /// `RECV_WAIT_MS`.
    pub recv_wait: Duration,
    /// `MAX_MESSAGE_BYTES`.
    pub max_message_bytes: u64,
    /// `MAX_STREAM_BYTES`: limit of a message that comes in pieces; 0 = whatever there is room for.
    pub max_stream_bytes: u64,
    /// `MAX_UPLOADS`: messages that may come in pieces at the same time, interrupted ones included.
    pub max_uploads: usize,
    /// `STORE_MAX_BYTES`; 0 = as much as the disk holds.
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
    /// `MAX_IN_FLIGHT_BYTES`: payload bytes under way per peer (four larger messages may be under way in addition).
    pub max_in_flight_bytes: u64,
    /// `LINK_STALL`: an attempt to deliver ends when nothing has moved for this long.
    pub link_stall: Duration,
    /// `LINK_WINDOW`: bytes of large messages sent and not yet durable at the peer, per connection.
    pub link_window: u64,
    /// `LINK_RESUME`: how long the received part of a large message is kept after its connection breaks.
    pub link_resume: Duration,
    /// `RETRY_CAP`: longest pause between attempts to reach one peer.
    pub retry_cap: Duration,
    /// `MAX_WAITING`: receives that may wait at the same time; further ones are answered at once.
    pub max_waiting: usize,
    /// `MAX_SUBSCRIPTIONS`: subscriptions of all streams at the same time.
    pub max_subscriptions: usize,
    /// `REDIS_URL` and the settings that belong to it; `None` for the embedded store.
    #[cfg(feature = "redis")]
    pub redis: Option<petnet_storage::redis::RedisOptions>,
}

impl Settings {
    /// The notice for `UNREAD_TTL` below `MESSAGE_TTL`: a message whose read was noted but not kept would then live for a
    /// shorter time than one that was read.
    fn unread_below_read(&self) -> Option<String> {
        let is_below =
            self.unread_ttl.is_some_and(|unread| self.message_ttl.is_none_or(|read| unread < read));
        is_below.then(|| {
            "UNREAD_TTL is below MESSAGE_TTL: a message that was read just before the gateway was killed may count as unread and then becomes a dead letter after UNREAD_TTL".to_owned()
        })
    }
}

/// Everything a gateway starts with.
#[derive(Debug)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    /// The parties.
    pub parties: Parties,
    /// How to log.
    pub logging: Logging,
    /// What the operator should know but need not change; one log line each.
    pub notices: Vec<String>,
}

/// Everything that is wrong with the settings and the party file, each mistake with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// True if none of the mistakes is anybody's fault: the next try may succeed.
    pub fn all_pass(&self) -> bool {
        self.0.iter().all(Mistake::passes)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        if self.all_pass() {
            f.write_str("the system fails what a start needs, which may pass; nothing was started")?;
            return self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"));
        }
        write!(f, "{n} mistake{} in the settings; nothing was started", if n == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// Checks everything, including the party file. Creates the data and log folders if they are all that is missing.
pub fn check(raw: &RawSettings) -> Result<Configuration, Mistakes> {
    let checked = look(raw)?;
    if raw.get("REDIS_URL").or(raw.get("REDIS_URL_FILE")).is_none() {
        make_folder("DATA_DIR", &checked.settings.data_dir, 0o700).map_err(|why| Mistakes(vec![why]))?;
    }
    if let Some(files) = &checked.logging.files {
        make_folder("LOGGING_DIR", &files.dir, 0o777).map_err(|why| Mistakes(vec![why]))?;
    }
    Ok(checked)
}

/// Checks everything, as [`check`] does, but creates nothing.
pub fn look(raw: &RawSettings) -> Result<Configuration, Mistakes> {
    let (raw, mistakes) = match raw.with_redis_url() {
        Ok(raw) => (raw, Vec::new()),
        Err(why) => (raw.clone(), vec![why]),
    };
    let mut check = Checker { raw: &raw, mistakes, notices: Vec::new(), memory: cgroup::memory_limit() };
    let party = check.party();
    let logging = check.logging();
    let (parties, own_certificate) = check.files(party.as_ref());
    let settings = check.settings(party, own_certificate);
    if let Some(settings) = &settings {
        check.memory(settings, parties.parties.len().saturating_sub(1));
    }
    match settings {
        Some(settings) if check.mistakes.is_empty() => {
            check.notices.extend(settings.unread_below_read());
            check.notices.extend(idle::without_effect(&raw, settings.own_certificate.is_some()));
            check.notices.extend_from_slice(&raw.misspelt);
            Ok(Configuration { settings, parties, logging, notices: check.notices })
        }
        _ => Err(Mistakes(check.mistakes)),
    }
}

struct Checker<'a> {
    raw: &'a RawSettings,
    mistakes: Vec<Mistake>,
    notices: Vec<String>,
    /// Memory that this process may take before the kernel kills it; `None` if there is no limit.
    memory: Option<u64>,
}

impl Checker<'_> {
    /// Reads one setting. A mistake is noted and `stand_in` returned, which nobody will ever see.
    fn value<T>(&mut self, name: &str, stand_in: T, read: impl FnOnce(&str) -> Result<T, String>) -> T {
        self.found(name, stand_in, |text| read(text).map_err(Mistake::from))
    }

    /// Reads one setting whose value has to be looked up, which may fail for a moment.
    fn found<T>(&mut self, name: &str, stand_in: T, read: impl FnOnce(&str) -> Result<T, Mistake>) -> T {
        let Some(given) = self.raw.get(name) else { return stand_in };
        read(&given.value).unwrap_or_else(|why| {
            self.mistakes.push(why.at(&format!("{}: {:?}", given.place, given.value)));
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
    fn files(&mut self, own: Option<&PartyId>) -> (Parties, Option<OwnCertificate>) {
        let read = files::read(&self.path("CONFIG_FILE_PATH"), &self.path("PEM_PATH"), own);
        let (found, notices) = read.unwrap_or_else(|mistakes| {
            self.mistakes.extend(mistakes.all().cloned());
            (FileContents { parties: Parties::default(), own_certificate: None }, Vec::new())
        });
        self.notices.extend(notices);
        if self.mistakes.is_empty() && found.own_certificate.is_none() {
            self.no_tls();
        }
        (found.parties, found.own_certificate)
    }

    /// The value of `ENV` if it begins with `prod`.
    fn production(&self) -> Option<&GivenValue> {
        self.raw.get("ENV").filter(|env| env.value.to_ascii_lowercase().starts_with("prod"))
    }

    /// Notes that there are no certificates, which is acceptable only in a trusted network.
    fn no_tls(&mut self) {
        let folder = self.path("PEM_PATH");
        let folder = folder.display();
        match self.production() {
            Some(env) => {
                let why = format!(
                    "{}: {:?} demands TLS, and there is no {CERTIFICATE} and {KEY} in {folder}; make some (petnet certs \
                     init), or use another ENV to serve plaintext",
                    env.place, env.value
                );
                self.mistakes.push(why.into());
            }
            None => self.notices.push(format!(
                "serving PLAINTEXT: there is no {CERTIFICATE} and {KEY} in {folder}; whoever reaches the port can read and \
                 send messages. Keep it on a trusted network"
            )),
        }
    }

    /// Reads all other settings, even when there is no party.
    fn settings(
        &mut self,
        party: Option<PartyId>,
        own_certificate: Option<OwnCertificate>,
    ) -> Option<Settings> {
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
            unread_ttl: self.value("UNREAD_TTL", None, values::lifetime),
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
            // Last: anything after it would not be checked when there is no party.
            party: party?,
        })
    }

    fn data_dir(&mut self) -> PathBuf {
        if let Some(given) = self.raw.get("REDIS_URL") {
            // Redis is in use, so nothing is kept in the data folder.
            if cfg!(not(feature = "redis")) {
                let why = format!(
                    "{}: this build has only the embedded store; unset it (the value is not shown, it may hold a password)",
                    given.place
                );
                self.mistakes.push(why.into());
            }
            return self.path("DATA_DIR");
        }
        self.found("DATA_DIR", PathBuf::new(), |text| {
            let path = PathBuf::from(text);
            check_folder(&path).map(|()| path)
        })
    }
}

impl Settings {
    /// Who the parties are, and how connections to and from them are secured with these settings. Fails if the certificates
    /// in the party file cannot be used.
    pub(crate) fn trust(&self, parties: Parties, version: u64) -> Result<Trust, String> {
        Trust::new(&self.party, self.own_certificate.as_ref(), self.tls_client_auth, parties, version)
    }
}

/// The parent of a folder; for a bare relative name, the working folder.
pub(crate) fn parent_of(folder: &Path) -> &Path {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Checks one of our folders without changing anything.
fn check_folder(folder: &Path) -> Result<(), Mistake> {
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => check_writable(folder),
        Ok(_) => Err("exists and is not a folder; choose another folder".into()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let parent = parent_of(folder);
            match std::fs::metadata(parent) {
                Ok(found) if found.is_dir() => check_writable(parent),
                Err(why) if why.kind() != io::ErrorKind::NotFound => {
                    let what = format!("does not exist, and {} cannot be looked at: {why}", parent.display());
                    Err(Mistake::of_io(what, &why))
                }
                _ => Err(format!(
                    "does not exist, and neither does {}; create it, or choose another folder",
                    parent.display()
                )
                .into()),
            }
        }
        Err(why) => Err(Mistake::of_io(format!("cannot be looked at: {why}"), &why)),
    }
}

/// Checks that the folder can be written to. A full disk is accepted: the gateway must start on it and go on delivering.
fn check_writable(folder: &Path) -> Result<(), Mistake> {
    match tempfile::tempfile_in(folder) {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("cannot write in {}: {why}; give this user write access", folder.display()).into())
        }
        Err(why) if why.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let what = format!(
                "cannot write in {}: {why}; a disk that failed is remounted so: see the system's log, then mount it for writing",
                folder.display()
            );
            Err(Mistake::of_io(what, &why))
        }
        _ => Ok(()),
    }
}

/// Creates a folder if it is missing. Its name is synced: a power loss must not take the folder and everything accepted in
/// it. `mode` says who may enter, less the umask.
fn make_folder(setting: &str, folder: &Path, mode: u32) -> Result<(), Mistake> {
    let fail = |why: io::Error| {
        Mistake::of_io(format!("{setting}: cannot create {}: {why}", folder.display()), &why)
    };
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => File::open(parent_of(folder)).and_then(|parent| parent.sync_all()).map_err(fail),
        Err(_) if folder.is_dir() => Ok(()),
        Err(why) => Err(fail(why)),
    }
}

#[cfg(test)]
mod tests;
