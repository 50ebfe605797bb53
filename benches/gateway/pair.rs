//! What is measured: two processes that know each other, gateways or relays, each listening on a port of loopback; or
//! gateways of which one is there at a time.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::PARTIES;

/// The flag with which this program runs as a relay: `--relay=LISTEN,PEER`.
pub(crate) const RELAY: &str = "--relay=";

/// Two processes, killed when dropped.
#[derive(Debug)]
pub(crate) struct Pair {
    members: [Member; 2],
}

/// One of them, killed when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    address: SocketAddr,
    process: Child,
    /// Kept, so that the gateway can log to the end.
    log: Option<BufReader<ChildStderr>>,
    /// What a gateway said when it served.
    said: String,
}

/// Where two gateways are that are started and killed one by one.
#[derive(Debug)]
pub(crate) struct Places {
    addresses: [SocketAddr; 2],
    parties: PathBuf,
}

impl Places {
    /// With their data below `dir`; nothing runs yet.
    pub(crate) fn new(dir: &Path) -> Self {
        let addresses = [free_address(), free_address()];
        let entry = |n: usize| {
            format!(r#""{}": {{"petnet": [{{"type": 1, "url": "{}"}}]}}"#, PARTIES[n], addresses[n])
        };
        let parties = dir.join("party.json");
        std::fs::write(&parties, format!("{{{}, {}}}", entry(0), entry(1))).unwrap();
        Self { addresses, parties }
    }

    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// The data folder of one of them.
    pub(crate) fn data(&self, n: usize) -> PathBuf {
        self.parties.with_file_name(PARTIES[n])
    }

    /// Starts one of them, on what it left behind; returns when it serves.
    pub(crate) fn start(&self, n: usize, settings: &[(&str, &str)]) -> Member {
        let no_certificates = self.parties.with_file_name("no-certificates");
        let data = self.data(n);
        Member::gateway(n, self.addresses[n], &self.parties, [&data, &no_certificates], settings)
    }
}

impl Pair {
    /// Two gateways with their data below `dir` and settings by default.
    pub(crate) fn gateways(dir: &Path) -> Self {
        let places = Places::new(dir);
        Self { members: [places.start(0, &[]), places.start(1, &[])] }
    }

    /// Two relays, each the other's peer.
    pub(crate) fn relays() -> Self {
        let addresses = [free_address(), free_address()];
        let one = |n: usize| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg(format!("{RELAY}{},{}", addresses[n], addresses[1 - n]));
            Member::start(&mut command, addresses[n])
        };
        Self { members: [one(0), one(1)] }
    }

    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        self.members.each_ref().map(|member| member.address)
    }

    /// Processor time that both have used up.
    pub(crate) fn processor_time(&self) -> Duration {
        self.members.iter().map(Member::processor_time).sum()
    }

    /// The memory that the larger of them had at most, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        self.members.iter().map(Member::peak_memory).fold(0.0, f64::max)
    }

    /// Ends two gateways in order; the records and syncs of both logs since they began.
    pub(crate) fn stop(mut self) -> (u64, u64) {
        let (mut appends, mut syncs) = (0, 0);
        for member in &mut self.members {
            drop(member.process.stdin.take());
            let mut said = String::new();
            member.log.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(member.process.wait().unwrap().success(), "{said}");
            let last = said.lines().rfind(|line| line.contains("syncs=")).expect("says its syncs");
            appends += number(last, "appends=");
            syncs += number(last, "syncs=");
        }
        (appends, syncs)
    }
}

/// A gateway of the first party alone, with certificates.
pub(crate) fn one_gateway(dir: &Path, certs: &Path, settings: &[(&str, &str)]) -> Member {
    let roots = std::fs::read_to_string(certs.join("ca.crt")).unwrap().replace('\n', "\\n");
    let own = format!(r#"[{{"url": "localhost:1", "certificates": "{roots}"}}]"#);
    let other = r#"[{"url": "localhost:1"}]"#;
    let file = dir.join("party.json");
    let parties =
        format!(r#"{{"{}": {{"petnet": {own}}}, "{}": {{"petnet": {other}}}}}"#, PARTIES[0], PARTIES[1]);
    std::fs::write(&file, parties).unwrap();
    Member::gateway(0, free_address(), &file, [&dir.join(PARTIES[0]), certs], settings)
}

impl Member {
    /// A gateway of a party, by its place in [`PARTIES`], with the party file and the folders of data and certificates.
    pub(crate) fn gateway(
        n: usize,
        address: SocketAddr,
        file: &Path,
        [data, certs]: [&Path; 2],
        settings: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petnet"));
        command.arg("serve").arg("--stop-with-stdin").arg("--party").arg(PARTIES[n]);
        command.arg("--config-file-path").arg(file);
        command.arg("--data-dir").arg(data);
        command.arg("--listen-addr").arg(address.to_string()).arg("--pem-path").arg(certs);
        // Both are on this machine.
        command.arg("--http-listen-addr").arg("off");
        command.envs(settings.iter().copied());
        Self::start(command.stderr(Stdio::piped()), address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time that it has used up.
    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(self.process.id())
    }

    /// What it said that its start found.
    pub(crate) fn found(&self) -> &str {
        self.said.split_once(", found ").map_or("", |(_, found)| found.trim_end())
    }

    /// The most memory that it had resident, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        memory(self.process.id(), "VmHWM:")
    }

    /// The memory that it has resident now, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        memory(self.process.id(), "VmRSS:")
    }

    /// Starts a program that listens; where its standard error is piped it is a gateway, and says when it serves.
    pub(crate) fn start(command: &mut Command, address: SocketAddr) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut log = process.stderr.take().map(BufReader::new);
        let mut said = String::new();
        if let Some(log) = &mut log {
            while !said.contains(" serves on ") {
                said.clear();
                assert_ne!(log.read_line(&mut said).unwrap(), 0, "the gateway did not start");
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nobody listens on {address}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, process, log, said }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The number behind `name` in a line of the log, 0 if there is none.
fn number(line: &str, name: &str) -> u64 {
    let behind = line.split_once(name).map_or("", |(_, behind)| behind);
    behind.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

/// User and system time of a process, see proc(5).
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').collect::<Vec<_>>();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// A figure of the memory of a process in MiB, see proc(5).
fn memory(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let figure = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    figure.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// An address on which nothing listens.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
