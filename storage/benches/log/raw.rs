//! The raw loop that the store is held against: write and `fdatasync` into space that is already written.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A file full of zeros, written and synced.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    len: u64,
    at: u64,
}

impl Raw {
    pub(crate) fn new(dir: &Path, len: u64) -> Self {
        let path = dir.join(format!("raw-{len}"));
        let file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..len).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, len, at: 0 }
    }

    /// Writes `bytes` behind the last write (at the end: from the start again) and syncs, for `time`. Writes a second.
    pub(crate) fn rate(&mut self, bytes: &[u8], time: Duration) -> f64 {
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < time {
            if self.at + bytes.len() as u64 > self.len {
                self.at = 0;
            }
            self.file.write_all_at(bytes, self.at).unwrap();
            self.file.sync_data().unwrap();
            self.at += bytes.len() as u64;
            count += 1;
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    }
}
