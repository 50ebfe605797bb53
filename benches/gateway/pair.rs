//! Two whole gateways with real stores and default settings, in this process.

use std::net::SocketAddr;
use std::path::Path;

use petnet::config::{RawSettings, check};
use petnet::gateway::Gateway;

use crate::clients::PARTIES;

/// Two gateways that know each other.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) gateways: [Gateway; 2],
}

impl Pair {
    /// Starts both, with their data below `dir`.
    pub(crate) async fn start(dir: &Path) -> Self {
        let addresses = [free_address(), free_address()];
        let entry = |n: usize| {
            format!(r#""{}": {{"petnet": [{{"type": 1, "url": "{}"}}]}}"#, PARTIES[n], addresses[n])
        };
        let file = dir.join("party.json");
        std::fs::write(&file, format!("{{{}, {}}}", entry(0), entry(1))).unwrap();
        Self { gateways: [one(dir, &file, 0, addresses[0]).await, one(dir, &file, 1, addresses[1]).await] }
    }

    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.gateways[0].local_addr(), self.gateways[1].local_addr()]
    }

    /// Appended records and syncs of the log, of both.
    pub(crate) fn appends_and_syncs(&self) -> (u64, u64) {
        let stats = self.gateways.each_ref().map(|gateway| gateway.engine().stats());
        (stats[0].appends + stats[1].appends, stats[0].syncs + stats[1].syncs)
    }

    /// Messages that wait at the first for the second.
    pub(crate) fn pending(&self) -> u64 {
        self.gateways[0].engine().stats().pending.iter().map(|peer| peer.messages).sum()
    }

    pub(crate) async fn shutdown(self) {
        for gateway in self.gateways {
            gateway.shutdown().await.unwrap();
        }
    }
}

async fn one(dir: &Path, file: &Path, n: usize, address: SocketAddr) -> Gateway {
    let (address, data) = (address.to_string(), dir.join(PARTIES[n]));
    let values = [
        ("PARTY", PARTIES[n]),
        ("CONFIG_FILE_PATH", file.to_str().unwrap()),
        ("DATA_DIR", data.to_str().unwrap()),
        ("LISTEN_ADDR", &address),
        ("PEM_PATH", dir.to_str().unwrap()),
    ];
    let checked = check(&RawSettings::from_values(values)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Gateway::start(checked.settings, checked.parties).await.unwrap()
}

/// An address on which nothing listens.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
