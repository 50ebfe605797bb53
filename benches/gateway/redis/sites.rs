//! What the cases with Redis run: a party's Redis server with gateways of the party on it, and PETNet's way beside them.
//!
//! All servers have an append-only file that is synced before each answer, on the disk that is measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use petnet_redis_servers::{Options, RedisServer};

use crate::clients::PARTIES;
use crate::pair::{Member, free_address, processor_time};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gateway");

/// A Redis server and who uses it. Gateways end before their server.
pub(crate) struct Site {
    pub(crate) users: Vec<Member>,
    pub(crate) redis: RedisServer,
}

/// Processor time in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) users: f64,
    pub(crate) redis: f64,
}

impl Site {
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.users.iter().map(Member::address).collect()
    }

    /// Processor time so far.
    pub(crate) fn used(&self) -> Used {
        let pid = self.redis.info("process_id").and_then(|pid| pid.parse().ok()).expect("INFO has its id");
        Used {
            users: self.users.iter().map(|user| user.processor_time().as_secs_f64()).sum(),
            redis: processor_time(pid).as_secs_f64(),
        }
    }
}

/// So many gateways of the first party on one server, and one of the second on another. Settings by default.
pub(crate) fn parties(folder: &Path, gateways: usize) -> [Site; 2] {
    std::fs::create_dir_all(folder).unwrap();
    let addresses: [Vec<_>; 2] = [gateways, 1].map(|count| (0..count).map(|_| free_address()).collect());
    let entry = |n: usize| {
        let connections: Vec<_> =
            addresses[n].iter().map(|at| format!(r#"{{"type": 1, "url": "{at}"}}"#)).collect();
        format!(r#""{}": {{"petnet": [{}]}}"#, PARTIES[n], connections.join(", "))
    };
    let file = folder.join("party.json");
    std::fs::write(&file, format!("{{{}, {}}}", entry(0), entry(1))).unwrap();
    [0, 1].map(|party| {
        let redis = redis(&folder.join(format!("redis-{party}")));
        let url = redis.url();
        let gateway = |(n, address): (usize, &SocketAddr)| {
            let data = folder.join(format!("{}-{n}", PARTIES[party]));
            let certs = folder.join("no-certificates");
            Member::gateway(party, *address, &file, [&data, &certs], &[("REDIS_URL", &url)])
        };
        Site { users: addresses[party].iter().enumerate().map(gateway).collect(), redis }
    })
}

/// PETNet's way of using Redis.
pub(crate) fn petnet_way(folder: &Path, python: &Path) -> Site {
    let redis = redis(&folder.join("redis"));
    let address = free_address();
    let mut command = Command::new(python);
    command.arg(format!("{SOURCES}/petnet_way.py")).arg(address.port().to_string());
    command.arg(redis.port().to_string()).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/protos"));
    Site { users: vec![Member::start(&mut command, address)], redis }
}

fn redis(folder: &Path) -> RedisServer {
    std::fs::create_dir_all(folder).unwrap();
    RedisServer::start(Options { more: vec![format!("dir {}", folder.display())], ..Options::default() })
}

/// Python with what PETNet's way needs, made below the target folder unless it is there already.
pub(crate) fn python() -> Result<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("petnet-way");
    let (python, wanted) = (venv.join("bin/python"), format!("{SOURCES}/petnet_way.txt"));
    let wanted_lines = std::fs::read(&wanted).with_context(|| wanted.clone())?;
    let made = venv.join("installed.txt");
    if std::fs::read(&made).is_ok_and(|has| has == wanted_lines) {
        return Ok(python);
    }
    eprintln!("gateway: installing {wanted}");
    done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    done(Command::new(&python).args(pip).arg(&wanted))?;
    std::fs::write(made, wanted_lines)?;
    Ok(python)
}

fn done(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
