//! What this process takes of the machine, as Linux tells it in `/proc/self`.
//!
//! What cannot be read is left at 0: a figure is no reason to fail.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Of this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    /// Memory that is really there.
    pub(crate) resident_bytes: u64,
    /// Address space.
    pub(crate) virtual_bytes: u64,
    /// File descriptors.
    pub(crate) open_files: u64,
    /// As many as it may have; `u64::MAX`: no limit.
    pub(crate) open_files_limit: u64,
    /// In user and system mode.
    pub(crate) cpu_seconds: f64,
    /// Threads.
    pub(crate) threads: u64,
    /// When it began, in seconds since the epoch.
    pub(crate) start_seconds: f64,
}

impl Process {
    /// Reads it. Takes about as long as there are open files, so not on a thread that others wait for.
    pub(crate) fn read() -> Self {
        let mut process = Self {
            // Less the one that lists them.
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
                as u64,
            open_files_limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            ..Self::default()
        };
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_seconds(&stat));
            process.fill(&stat, boot.unwrap_or_default());
        }
        process
    }

    /// From `/proc/self/stat`; proc(5) has the fields.
    fn fill(&mut self, stat: &str, boot_seconds: f64) {
        // The name, in brackets, may hold anything; fields are counted behind it, where the third of all is the first.
        let Some((_, behind)) = stat.rsplit_once(") ") else { return };
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0u64);
        let ticks = clock_ticks_per_second().max(1) as f64;
        self.cpu_seconds = (field(14) + field(15)) as f64 / ticks;
        self.threads = field(20);
        self.start_seconds = boot_seconds + field(22) as f64 / ticks;
        self.virtual_bytes = field(23);
        self.resident_bytes = field(24) * page_size() as u64;
    }
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let process = Process::read();
        assert!(
            process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes,
            "{process:?}"
        );
        assert!(process.open_files >= 3 && process.open_files_limit > process.open_files, "{process:?}");
        let now = crate::meters::now_ms() as f64 / 1e3;
        assert!(
            process.threads >= 1 && process.start_seconds > 1e9 && process.start_seconds < now,
            "{process:?}"
        );
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let mut process = Process::default();
        process.fill(&format!("1 (a) b) S {}", fields.join(" ")), 0.0);
        assert_eq!((process.threads, process.virtual_bytes), (20, 23));
    }
}
