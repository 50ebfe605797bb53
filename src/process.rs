//! What this process takes of the machine, as the kernel counts it.

use rustix::process::{Resource, getrlimit};

use crate::proto::admin::Process;

/// Now. What cannot be read is 0.
pub(crate) fn look(connections: usize) -> Process {
    Process {
        resident_bytes: resident_bytes().unwrap_or_default(),
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64),
        open_files_limit: getrlimit(Resource::Nofile).current.unwrap_or_default(),
        connections: connections as u64,
    }
}

/// Memory that is in RAM: the second number of `/proc/self/statm`, in pages (proc(5)).
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_has_memory_and_open_files() {
        let now = super::look(3);
        assert!(now.resident_bytes > 1 << 20 && now.open_files > 2 && now.connections == 3);
        assert!(now.open_files_limit >= now.open_files);
    }
}
