//! The Unix socket of `petnet.admin.v1` in a data folder: where it is, and a connection to it.
//!
//! Anyone who may write the data folder may do everything there, so access is controlled by the file system's permissions
//! and nothing else. Invariant: server and clients find the socket by the same function, even in a folder whose path is
//! longer than the address of a socket may be.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::proto::admin::admin_client::AdminClient;

/// The socket's name in the data folder.
pub(crate) const NAME: &str = "admin.sock";

/// The longest path that fits into the address of a Unix socket (108 bytes on Linux, the last one a zero).
const LONGEST_PATH: usize = 107;
/// A gateway that has not taken the connection by then is hanging.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of 1000 messages with long ids and long errors stays far below this.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A client of the gateway on a data folder.
pub(crate) type AdminSocketClient = AdminClient<Channel>;

/// The path to bind or to connect to. If a file comes with it, that is the folder, and must stay open meanwhile: the path
/// leads through it, because the real one is too long.
pub(crate) fn path(data_dir: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let direct = data_dir.join(NAME);
    if direct.as_os_str().as_bytes().len() <= LONGEST_PATH {
        return Ok((direct, None));
    }
    let folder = File::open(data_dir)?;
    let through = format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd());
    Ok((through.into(), Some(folder)))
}

/// Why there is no connection; the error texts say what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "no gateway runs on {data_dir} ({NAME} {why}): start it with `petnet serve`, look into the folder with `petnet \
         verify`, or name another one with --data-dir"
    )]
    NotRunning { data_dir: String, why: &'static str },
    #[error(
        "the folder {data_dir} is in use, and {NAME} {why}: a gateway that starts on it reads back what is on the disk first; try again, \
         its log says how far it is"
    )]
    Starting { data_dir: String, why: &'static str },
    #[error("not allowed to use {NAME} in {data_dir}: only {who} and root may; run this as one of them")]
    Denied { data_dir: String, who: String },
    #[error("cannot connect to {NAME} in {data_dir}: {why}")]
    Failed { data_dir: String, why: String },
}

impl ConnectError {
    fn new(data_dir: &Path, why: &io::Error) -> Self {
        let shown = data_dir.display().to_string();
        let absent = |data_dir, why| {
            let shown = shown.clone();
            if is_in_use(data_dir) {
                Self::Starting { data_dir: shown, why }
            } else {
                Self::NotRunning { data_dir: shown, why }
            }
        };
        match why.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => absent(data_dir, "is not there"),
            ErrorKind::ConnectionRefused => absent(data_dir, "answers to nobody"),
            ErrorKind::PermissionDenied => Self::Denied { data_dir: shown, who: owner(data_dir) },
            ErrorKind::TimedOut => Self::Failed {
                data_dir: shown,
                why: format!("not taken within {CONNECT_TIMEOUT:?}; the gateway hangs, its log may say why"),
            },
            _ => Self::Failed { data_dir: shown, why: why.to_string() },
        }
    }
}

/// Whether somebody holds the folder's lock. Not found out by trying to take it: a gateway that starts at that moment would
/// be refused. `/proc/locks` has a line for each lock: number, FLOCK, ADVISORY, WRITE, process, device in two numbers and
/// inode, range.
fn is_in_use(data_dir: &Path) -> bool {
    let Ok(lock) = std::fs::metadata(data_dir.join("LOCK")) else { return false };
    let inode = format!(":{}", lock.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .any(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&inode)))
}

/// Who owns the socket or the folder, as far as that can be seen from outside.
fn owner(data_dir: &Path) -> String {
    let found = std::fs::metadata(data_dir.join(NAME)).or_else(|_| std::fs::metadata(data_dir));
    found.map_or_else(|_| "the owner of the folder".into(), |found| format!("user id {}", found.uid()))
}

/// Connects to the gateway that runs on the folder.
pub(crate) async fn connect(data_dir: &Path) -> Result<AdminSocketClient, ConnectError> {
    // The first connection is made by hand: its error says more than that of a channel.
    let first = open(data_dir).await.map_err(|why| ConnectError::new(data_dir, &why))?;
    let connector = SocketConnector { data_dir: data_dir.into(), first: Some(first) };
    let failed = |why: tonic::transport::Error| ConnectError::Failed {
        data_dir: data_dir.display().to_string(),
        why: std::error::Error::source(&why).map_or_else(|| why.to_string(), ToString::to_string),
    };
    // The address is not used, but HTTP requires one.
    let endpoint = Endpoint::from_static("http://admin.sock").connect_timeout(CONNECT_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(failed)?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

async fn open(data_dir: &Path) -> io::Result<UnixStream> {
    let (path, _folder) = path(data_dir)?;
    tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Supplies a channel with its connections.
struct SocketConnector {
    data_dir: PathBuf,
    first: Option<UnixStream>,
}

impl Service<Uri> for SocketConnector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (first, data_dir) = (self.first.take(), self.data_dir.clone());
        Box::pin(async move {
            match first {
                Some(first) => Ok(TokioIo::new(first)),
                None => open(&data_dir).await.map(TokioIo::new),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_folder_with_a_long_path_has_a_socket_too() {
        let dir = tempfile::tempdir().unwrap();
        let (short, long) = (dir.path().join("s"), dir.path().join("l".repeat(100)).join("l".repeat(200)));
        for (folder, is_long) in [(short, false), (long, true)] {
            std::fs::create_dir_all(&folder).unwrap();
            let (bound, folder_file) = path(&folder).unwrap();
            assert_eq!(folder_file.is_some(), is_long);
            let listener = UnixListener::bind(bound).unwrap();
            assert!(folder.join(NAME).exists());
            let (client, server) = tokio::join!(open(&folder), listener.accept());
            client.unwrap();
            server.unwrap();
        }
    }

    #[tokio::test]
    async fn where_no_gateway_runs_the_error_says_so_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().to_path_buf(), dir.path().join("no/such")] {
            let why = connect(&folder).await.unwrap_err();
            assert!(matches!(why, ConnectError::NotRunning { .. }), "{why}");
            for part in ["no gateway runs on", "is not there", "petnet serve", "petnet verify"] {
                assert!(why.to_string().contains(part), "no {part:?} in {why}");
            }
        }
        // While a gateway is starting.
        let lock = File::create(dir.path().join("LOCK")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let why = connect(dir.path()).await.unwrap_err();
        assert!(matches!(why, ConnectError::Starting { .. }), "{why}");
        drop(lock);
        // What a killed gateway leaves behind.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(NAME)).unwrap());
        let why = connect(dir.path()).await.unwrap_err();
        assert!(why.to_string().contains("answers to nobody"), "{why}");
    }

    #[test]
    fn who_may_not_is_told_who_may() {
        let dir = tempfile::tempdir().unwrap();
        let why = ConnectError::new(dir.path(), &ErrorKind::PermissionDenied.into()).to_string();
        let owner = std::fs::metadata(dir.path()).unwrap().uid();
        assert!(why.contains(&format!("only user id {owner} and root may")), "{why}");
    }
}
