//! `petnet migrate`: moves all that the store of a stopped gateway holds to another store, and compares the two.
//!
//! Invariants: the old store is not changed; the new one can be used only once both agree.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use petnet_storage::transfer::{
    FolderSource, FolderTarget, Progress, Report, Source, Step, Tally, Target, TransferError, run,
};
use petnet_storage::{PartyId, StoreOptions};

use crate::cli::folder::verify::{inspector, refused};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::say::say;
use crate::cli::terminal::table::many;
use crate::config::{lifetime, redis_url};

/// How the URL of a Redis store begins.
const REDIS: [&str; 4] = ["redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://"];

/// Move everything of a stopped gateway to another store.
///
/// Pending messages, mailbox, dead letters and the memory of what was delivered go from a data folder to another one or to
/// Redis, or back, with their ids, order, age and delivery identities. The old store is not changed. The new one must be
/// empty; it can be used once everything was read back and compared. Can be cut off at any moment: the same command goes
/// on where it was. Both must be stopped, and afterwards only the new one may be started: never both.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet migrate --from /var/lib/petnet --to redis://localhost:6379 --party party_a
  petnet migrate --from redis://localhost:6379 --to /var/lib/petnet-new --party party_a
  petnet migrate --from /var/lib/petnet --to /mnt/larger/petnet

Exit codes:
  0  everything moved, and both ends agree
  1  not everything: what is damaged in the old store stayed there and is named; or it was cut off, or both ends differ
  2  wrong arguments, nothing to move from, or the new store is not empty
  3  could not begin: a gateway is running on one of them, a newer version wrote it, or the disk gives errors")]
pub(crate) struct Migrate {
    /// The old store: a data folder, or the URL of a Redis
    #[arg(long, value_name = "DIR|URL")]
    from: MoveEnd,
    /// The new store: an empty or missing folder, or the URL of a Redis
    #[arg(long, value_name = "DIR|URL")]
    to: MoveEnd,
    /// Whose store it is; needed where one end is a Redis
    #[arg(long, value_name = "ID")]
    party: Option<PartyId>,
    /// Mailbox messages older than this are over and stay behind: the gateway's `MESSAGE_TTL`. By default all move, and the
    /// gateway ends those that are over
    #[arg(long, value_name = "TIME", value_parser = at_most)]
    message_ttl: Option<Duration>,
}

/// One end of the move.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MoveEnd {
    Folder(PathBuf),
    Redis(String),
}

impl FromStr for MoveEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must be a folder or a URL".into());
        }
        if let Some(file) = text.strip_prefix("file:").filter(|_| !text.contains("://")) {
            return redis_url(Path::new(file)).map(Self::Redis).map_err(|why| why.to_string());
        }
        // What is wrong with a URL is reported later: the parser of arguments would repeat the value, including its
        // password.
        Ok(if text.contains("://") { Self::Redis(text.into()) } else { Self::Folder(text.into()) })
    }
}

/// Shows the end without passwords.
impl fmt::Display for MoveEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Redis(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                let place = place.split_once('?').map_or(place, |(place, _)| place);
                write!(f, "{scheme}://{place}")
            }
        }
    }
}

impl Migrate {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        if let Some(wrong) = self.wrong() {
            complain!("petnet migrate: {wrong}");
            return Ok(Exit::WrongSettings);
        }
        // Both stay open until the end, because that keeps them locked.
        let reading = format!("reading {}", self.from);
        let source = match progress::shown(|| reading.clone(), self.open_source()).await? {
            Ok(source) => source,
            Err(why) => return Ok(stopped(&why)),
        };
        let opened = self.open_target().await;
        if !matches!(opened, Ok(Ok(_))) {
            source.leave().await;
        }
        let target = match opened? {
            Ok(target) => target,
            Err(why) => return Ok(stopped(&why)),
        };
        let at = Mutex::new(None);
        let note = |now: Progress| *at.lock() = Some(now);
        let shown = || at.lock().map_or_else(|| "opening".into(), line);
        let done = progress::shown(shown, run(&*source, &*target, &note)).await;
        Ok(match done {
            Ok(report) => self.said(&report),
            Err(why) => stopped(&why),
        })
    }

    /// What is wrong with the arguments.
    fn wrong(&self) -> Option<String> {
        let is_redis = |end: &MoveEnd| matches!(end, MoveEnd::Redis(_));
        let is_strange = |end: &&MoveEnd| match end {
            MoveEnd::Redis(url) => !REDIS.iter().any(|scheme| url.starts_with(scheme)),
            MoveEnd::Folder(_) => false,
        };
        if let Some(end) = [&self.from, &self.to].into_iter().find(is_strange) {
            return Some(format!(
                "{end} is neither a folder nor a URL that begins with {}",
                REDIS.join(", ")
            ));
        }
        if self.from == self.to {
            return Some(format!("{} is both --from and --to", self.from));
        }
        let needs_party = self.party.is_none() && (is_redis(&self.from) || is_redis(&self.to));
        needs_party.then(|| "give --party: several parties may have their stores in one Redis".into())
    }

    async fn open_source(&self) -> anyhow::Result<Result<Arc<dyn Source>, TransferError>> {
        let path = match &self.from {
            MoveEnd::Folder(path) => path.clone(),
            MoveEnd::Redis(url) => return redis_source(url, self.party.as_ref()).await,
        };
        let (inspector, scratch) = inspector(path)?;
        let ttl = self.message_ttl;
        let opened = tokio::task::spawn_blocking(move || {
            let _scratch = scratch;
            FolderSource::open(&inspector, ttl)
        });
        let opened = opened.await.context("the work was cut off; this is a bug")?;
        Ok(opened.map(|source| Arc::new(source) as Arc<dyn Source>))
    }

    async fn open_target(&self) -> anyhow::Result<Result<Arc<dyn Target>, TransferError>> {
        match &self.to {
            MoveEnd::Folder(path) => Ok(Ok(Arc::new(FolderTarget::new(StoreOptions::new(whole(path)?))))),
            MoveEnd::Redis(url) => redis_target(url, self.party.as_ref()).await,
        }
    }

    /// Reports what was done.
    fn said(&self, report: &Report) -> Exit {
        if report.resumed.ended {
            say("An earlier migration had moved everything; this one compared both once more.");
        } else if report.resumed.again {
            say("An earlier migration was cut off; this one went on with it.");
        }
        say(&table(report));
        for lost in report.unreadable.iter().map(ToString::to_string).chain(report.damage.iter().cloned()) {
            complain!("petnet migrate: damaged in {}: {lost}", self.from);
        }
        for difference in &report.differences {
            complain!("petnet migrate: {difference}");
        }
        if !report.finished {
            let what = if report.resumed.ended {
                "was ready before and has changed since; it was left as it is".to_owned()
            } else {
                format!("cannot be used; keep {}, and report this as a bug", self.from)
            };
            let places = many(report.differing, "place", "places");
            complain!("petnet migrate: the two ends differ in {places}. {} {what}", self.to);
            return Exit::Failed;
        }
        say(&format!(
            "\n{} is ready. Never start a gateway on {} again: two stores of one party would each deliver, and each forget what the other has. It was not changed; keep it until the new one has proved itself.",
            self.to, self.from
        ));
        if report.is_whole() {
            return Exit::Ok;
        }
        complain!(
            "petnet migrate: {} could not be read, and {} damaged (see above); all else was moved",
            many(report.unreadable.len() as u64, "message", "messages"),
            many(report.damage.len() as u64, "place is", "places are")
        );
        Exit::Failed
    }
}

/// Options for the store that a party has, or is to have, in Redis. Certificates and permissions are those of a gateway:
/// `REDIS_PEM_PATH`, `REDIS_TIMEOUT`, `REDIS_ALLOW_VOLATILE`.
#[cfg(feature = "redis")]
fn redis(url: &str, party: Option<&PartyId>) -> anyhow::Result<petnet_storage::redis::RedisOptions> {
    let party = party.context("give --party")?;
    crate::config::redis_options(url, party).map_err(anyhow::Error::msg)
}

#[cfg(feature = "redis")]
async fn redis_source(
    url: &str,
    party: Option<&PartyId>,
) -> anyhow::Result<Result<Arc<dyn Source>, TransferError>> {
    let opened = petnet_storage::redis::RedisSource::open(redis(url, party)?).await;
    Ok(opened.map(|source| Arc::new(source) as Arc<dyn Source>))
}

#[cfg(feature = "redis")]
async fn redis_target(
    url: &str,
    party: Option<&PartyId>,
) -> anyhow::Result<Result<Arc<dyn Target>, TransferError>> {
    let opened = petnet_storage::redis::RedisTarget::open(redis(url, party)?).await;
    Ok(opened.map(|target| Arc::new(target) as Arc<dyn Target>))
}

#[cfg(not(feature = "redis"))]
async fn redis_source(
    _: &str,
    _: Option<&PartyId>,
) -> anyhow::Result<Result<Arc<dyn Source>, TransferError>> {
    std::future::ready(Err(anyhow::anyhow!("this build has only the embedded store"))).await
}

#[cfg(not(feature = "redis"))]
async fn redis_target(
    _: &str,
    _: Option<&PartyId>,
) -> anyhow::Result<Result<Arc<dyn Target>, TransferError>> {
    std::future::ready(Err(anyhow::anyhow!("this build has only the embedded store"))).await
}

/// The absolute path: that way a relative one has a parent, too.
fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}

fn at_most(text: &str) -> Result<Duration, String> {
    lifetime(text)?.ok_or_else(|| "leave it out: then all messages move".into())
}

/// Reports why it did not go on.
fn stopped(why: &TransferError) -> Exit {
    if let TransferError::Inspect(why) = why {
        return refused("migrate", why);
    }
    complain!("petnet migrate: {why}");
    match why {
        TransferError::Refused { .. } => Exit::WrongSettings,
        TransferError::Open(_) | TransferError::Inspect(_) => Exit::CouldNotStart,
        TransferError::Unfit { .. } => Exit::Failed,
        TransferError::Store(_) => {
            complain!(
                "The old store was not changed. Once the cause is gone, the same command goes on where it was."
            );
            Exit::Failed
        }
    }
}

/// How far the move has come.
fn line(now: Progress) -> String {
    let doing = match now.step {
        Step::Moving => "moving",
        Step::Comparing => "comparing",
    };
    format!(
        "{doing}: {} of {}, {} of {}",
        now.messages,
        many(now.of_messages, "message", "messages"),
        progress::bytes(now.bytes),
        progress::bytes(now.of_bytes)
    )
}

fn table(report: &Report) -> String {
    let mut lines =
        vec![format!("{:<12} {:>10} {:>10} {:>16} {:>16}", "", "messages", "size", "checksum: old", "new")];
    let kinds = [
        ("pending", report.source.pending, report.target.pending),
        ("mailbox", report.source.mailbox, report.target.mailbox),
        ("dead letters", report.source.dead, report.target.dead),
    ];
    for (kind, old, new) in kinds {
        let Tally { messages, bytes, checksum } = old;
        lines.push(format!(
            "{kind:<12} {messages:>10} {:>10} {checksum:016x} {:016x}",
            progress::bytes(bytes),
            new.checksum
        ));
    }
    lines.push(format!("Remembered: deliveries of {} of peers.", many(report.remembered, "start", "starts")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_folder_or_a_redis_and_shows_no_password() {
        let end = |text: &str| text.parse::<MoveEnd>();
        assert_eq!(end("/var/lib/petnet"), Ok(MoveEnd::Folder("/var/lib/petnet".into())));
        for scheme in REDIS {
            let redis = end(&format!("{scheme}user:se@cret@host:6379/1")).expect("a Redis");
            assert_eq!(redis.to_string(), format!("{scheme}host:6379/1"));
        }
        let sentinels = end("redis+sentinel://host/name?sentinel_password=secret").expect("a Redis");
        assert_eq!(sentinels.to_string(), "redis+sentinel://host/name");
        assert!(end("").is_err());
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "redis://:secret@host\n").expect("written");
        let named = end(&format!("file:{}", file.path().display())).expect("its URL is in a file");
        assert_eq!(
            (named.to_string().as_str(), named),
            ("redis://host", MoveEnd::Redis("redis://:secret@host".into()))
        );
    }

    #[derive(clap::Parser)]
    struct MigrateArguments {
        #[command(flatten)]
        migrate: Migrate,
    }

    #[test]
    fn what_is_wrong_with_an_end_is_said_without_its_password() {
        let line = ["migrate", "--from", "folder", "--to", "redis+tls://:secret@host"];
        let said = match <MigrateArguments as clap::Parser>::try_parse_from(line) {
            Ok(line) => line.migrate.wrong().expect("it is wrong"),
            Err(why) => why.to_string(),
        };
        assert!(said.contains("redis+tls") && !said.contains("secret"), "{said}");
    }
}
