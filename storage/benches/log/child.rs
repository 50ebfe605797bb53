//! Stores in processes of their own: to be killed, and to have their memory measured.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use petnet_storage::{NoObserver, Store, StoreOptions};

use crate::load::fill;

const ROLE: &str = "--as-child";

/// Runs the role of a child when the command line says so. True: it did.
pub(crate) fn run_if_child(args: &[String]) -> bool {
    let [flag, role, dir, size, count] = args else { return false };
    if flag != ROLE {
        return false;
    }
    let (size, count) = (size.parse().unwrap(), count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let started = Instant::now();
    let (engine, _) = Store::open(StoreOptions::new(dir), Arc::new(NoObserver)).unwrap();
    let took = started.elapsed().as_secs_f64();
    match role.as_str() {
        "open" => println!("{took}"),
        "fill" => {
            runtime.block_on(fill(&engine, size, count));
            println!("{}", started.elapsed().as_secs_f64());
        }
        "memory" => {
            let before = memory("VmRSS");
            runtime.block_on(fill(&engine, size, count));
            let (filled, took) = (memory("VmRSS"), started.elapsed().as_secs_f64());
            // Time for what is older to move to the index on disk.
            std::thread::sleep(Duration::from_secs(15));
            println!("{before} {filled} {} {} {took}", memory("VmHWM"), memory("VmRSS"));
        }
        other => panic!("no role {other}"),
    }
    // Until killed.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A child that has said what it had to say. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    _output: BufReader<ChildStdout>,
    /// The numbers it printed.
    pub(crate) said: Vec<f64>,
}

impl Role {
    /// Starts a child and waits until it has done its part.
    pub(crate) fn play(role: &str, dir: &Path, size: usize, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([ROLE, role])
            .arg(dir)
            .args([size.to_string(), count.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let said = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Self { child, _output: output, said }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A value of `/proc/self/status` in MiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kb: f64 = line.trim_start_matches(':').trim_end_matches("kB").trim().parse().unwrap();
    kb / 1024.0
}
