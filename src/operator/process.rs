//! What this process uses of the machine, as Linux reports it in `/proc/self`.
//!
//! What cannot be read is left at 0: a missing figure is no reason to fail.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What the process uses at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessUsage {
    /// Memory that is resident, in bytes.
    pub(crate) resident_bytes: u64,
    /// Address space, in bytes.
    pub(crate) virtual_bytes: u64,
    /// Number of open file descriptors.
    pub(crate) open_files: u64,
    /// Most file descriptors it may have; `u64::MAX` if there is no limit.
    pub(crate) open_files_limit: u64,
    /// Processor time in user and system mode.
    pub(crate) cpu_seconds: f64,
    /// Number of threads.
    pub(crate) threads: u64,
    /// When the process began, in seconds since the epoch.
    pub(crate) start_seconds: f64,
}

impl ProcessUsage {
    /// Reads the figures. The time it takes grows with the number of open files, so it must not run on a thread that others
    /// wait for.
    pub(crate) fn read() -> Self {
        let mut process = Self {
            // Without the descriptor that lists them.
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

    /// Fills in figures from `/proc/self/stat`; proc(5) describes the fields.
    fn fill(&mut self, stat: &str, boot_seconds: f64) {
        // The name, in brackets, may contain anything; fields are counted after it, and the first one there is the third of
        // all.
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
        let process = ProcessUsage::read();
        assert!(
            process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes,
            "{process:?}"
        );
        assert!(process.open_files >= 3 && process.open_files_limit > process.open_files, "{process:?}");
        let now = crate::wire::wall_clock::now_ms() as f64 / 1e3;
        assert!(
            process.threads >= 1 && process.start_seconds > 1e9 && process.start_seconds < now,
            "{process:?}"
        );
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let mut process = ProcessUsage::default();
        process.fill(&format!("1 (a) b) S {}", fields.join(" ")), 0.0);
        assert_eq!((process.threads, process.virtual_bytes), (20, 23));
    }
}
