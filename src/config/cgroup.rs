//! How much memory this process may take before the kernel kills it: the limits of its control group and of all enclosing
//! groups.
//!
//! Reads version 2 (`memory.max`) and version 1 (`memory.limit_in_bytes`), as Linux documents them in cgroup-v2.rst and
//! cgroup-v1/memory.rst. Inside a container the path may be the host's, of which only the top exists.

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 cannot say "no limit": it gives a number close to the size of the address space.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit in bytes; `None` if none can be found.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit of the groups listed in `/proc/self/cgroup`, which are mounted at `mount`.
fn limit_of(groups: &str, mount: &Path) -> Option<u64> {
    let mut smallest: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, file) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            some if some.split(',').any(|one| one == "memory") => {
                (mount.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for folder in upwards(&top, path) {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            let limit = text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT);
            smallest = smallest.into_iter().chain(limit).min();
        }
    }
    smallest
}

/// The group's folder and all folders above it, up to `top`.
fn upwards(top: &Path, path: &str) -> Vec<PathBuf> {
    let mut folders = vec![top.to_owned()];
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        let next = folders.last().map_or_else(|| top.join(part), |last| last.join(part));
        folders.push(next);
    }
    folders
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn put(mount: &Path, file: &str, text: &str) {
        let path = mount.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path();
        assert_eq!(limit_of("0::/a.slice/b.service\n", mount), None);
        put(mount, "a.slice/memory.max", "1048576\n");
        put(mount, "a.slice/b.service/memory.max", "max\n");
        assert_eq!(limit_of("0::/a.slice/b.service\n", mount), Some(1 << 20));
        put(mount, "a.slice/b.service/memory.max", "4096\n");
        assert_eq!(limit_of("0::/a.slice/b.service\n", mount), Some(4096));
        assert_eq!(limit_of("0::/\n", mount), None);

        put(mount, "memory/memory.limit_in_bytes", "8192\n");
        put(mount, "memory/docker/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_of("5:cpu:/docker\n4:cpuset,memory:/docker/unseen\n", mount), Some(8192));
        assert_eq!(limit_of("5:cpu:/docker\n", mount), None);
        assert_eq!(limit_of("", mount), None);
    }
}
