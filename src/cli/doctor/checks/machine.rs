//! What the machine offers: disk space, syncs, files, the address.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use petnet_storage::{Disk, RealDisk};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;

use super::Finding;
use crate::config::Settings;
use crate::rules::text::many;

/// Number of syncs that are timed.
const SYNCS: usize = 32;
/// Every send waits for a sync: slower ones are worth a warning.
const SLOW: Duration = Duration::from_millis(20);
/// No medium is that fast: a cache must have answered.
const TOO_FAST: Duration = Duration::from_micros(20);
/// With less room than this, messages will soon be refused.
const LITTLE_ROOM: u64 = 1 << 30;
/// File descriptors needed for the store, connections to peers and the runtime.
pub(crate) const OTHER_FILES: u64 = 256;
/// `f_type` of file systems that live in memory: tmpfs and ramfs, see statfs(2).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = store(settings).await;
    findings.push(files(settings.limits.connections));
    findings.push(address(settings.listen_addr).await);
    findings.extend(crate::delivery::paused::damage(&settings.data_dir).map(|why| {
        let advice = "petnet queue resume PEER begins deliveries again, and writes the file again";
        Finding::bad(format!("{why}; every peer is paused"), advice)
    }));
    findings
}

/// Findings about the place where messages are kept.
async fn store(settings: &Settings) -> Vec<Finding> {
    #[cfg(feature = "redis")]
    if let Some(options) = crate::gateway::engine::redis(settings, settings.listen_addr) {
        return super::redis::examine(&options).await;
    }
    let folder = existing(&settings.data_dir).to_owned();
    let looked = tokio::task::spawn_blocking(move || disk(&folder)).await;
    looked.unwrap_or_else(|_| vec![Finding::bad("the disk could not be looked at", "")])
}

/// The data folder, or the folder in which it would be created.
fn existing(folder: &Path) -> &Path {
    if folder.is_dir() { folder } else { crate::config::parent_of(folder) }
}

fn disk(folder: &Path) -> Vec<Finding> {
    let name = folder.display();
    let mut findings = Vec::new();
    match RealDisk.room(folder) {
        Ok(room) if room.available < LITTLE_ROOM => findings.push(Finding::warning(
            format!("{name}: {} MiB are free", room.available >> 20),
            "sends are refused when it is full; give it more room",
        )),
        Ok(room) => findings.push(Finding::good(format!("{name}: {} GiB are free", room.available >> 30))),
        Err(why) => findings.push(Finding::bad(format!("{name}: {why}"), "check the data folder")),
    }
    if rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&found.f_type.cast_unsigned())) {
        findings.push(Finding::bad(
            format!("{name} is in memory"),
            "nothing survives a loss of power there; choose a folder on a disk",
        ));
    }
    findings.push(match syncs(folder) {
        Ok(time) if time > SLOW => Finding::warning(
            format!("a sync takes {time:.1?} (the middle of {SYNCS})"),
            "every acceptance waits for one; a disk of its own, or one that is faster, helps",
        ),
        Ok(time) if time < TOO_FAST => Finding::warning(
            format!("a sync takes {time:.1?}: no disk is that fast"),
            "does something below answer before the bytes are safe? petnet crashtest and a power cut tell",
        ),
        Ok(time) => Finding::good(format!("a sync takes {time:.1?} (the middle of {SYNCS})")),
        Err(why) => {
            Finding::bad(format!("cannot write and sync in {name}: {why}"), "check access and the disk")
        }
    });
    findings
}

/// The median duration of some syncs of a file that is removed afterwards.
fn syncs(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0x5a; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}

fn files(connections: usize) -> Finding {
    let need = connections as u64 + OTHER_FILES;
    match getrlimit(Resource::Nofile).maximum {
        Some(have) if have < need => Finding::warning(
            format!("a process may open {have} files, and MAX_CONNECTIONS={connections} needs {need}"),
            "raise the limit (ulimit -n, LimitNOFILE) or lower MAX_CONNECTIONS",
        ),
        _ => Finding::good(format!(
            "enough files may be open for {}",
            many(connections as u64, "connection", "connections")
        )),
    }
}

async fn address(address: SocketAddr) -> Finding {
    match TcpListener::bind(address).await {
        Ok(_) => Finding::good(format!("{address} is free to listen on; no gateway runs there")),
        Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => {
            Finding::good(format!("{address} is in use; fine if it is this gateway that runs"))
        }
        Err(why) => Finding::bad(
            format!("cannot listen on {address}: {why}"),
            "choose another LISTEN_ADDR, or one of this machine's addresses",
        ),
    }
}
