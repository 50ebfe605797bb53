//! Bytes of a simulated file, what a power cut leaves of a write, and the generator that decides.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A small generator: the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635_d1c2_3a4d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Content of a file: pages that are not all zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Content {
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = (self.len.saturating_sub(offset) as usize).min(buf.len());
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let take = (PAGE - within).min(n - done);
            match self.pages.get(&page) {
                Some(bytes) => buf[done..done + take].copy_from_slice(&bytes[within..within + take]),
                None => buf[done..done + take].fill(0),
            }
            done += take;
        }
        n
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let take = (PAGE - within).min(data.len() - done);
            let chunk = &data[done..done + take];
            if self.pages.contains_key(&page) || chunk.iter().any(|b| *b != 0) {
                let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(bytes)[within..within + take].copy_from_slice(chunk);
            }
            done += take;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let zeros = vec![0; PAGE - (len % PAGE as u64) as usize];
            self.write(&zeros, len);
            self.pages.retain(|page, _| page * (PAGE as u64) < len);
        }
        self.len = len;
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(data, *offset),
            Change::SetLen(len) => self.set_len(*len),
        }
    }
}

/// A change of a file that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// Applies what a power cut left of a change.
pub(super) fn apply_part(content: &mut Content, change: &Change, rng: &mut Rng) {
    let Change::Write(offset, data) = change else {
        if rng.chance(2) {
            content.apply(change);
        }
        return;
    };
    // Sectors of the disk, not of the write.
    let first = SECTOR - (*offset % SECTOR as u64) as usize;
    let mut cuts = vec![0];
    let mut at = first;
    while at < data.len() {
        cuts.push(at);
        at += SECTOR;
    }
    let end = |i: usize| cuts.get(i + 1).copied().unwrap_or(data.len());
    match rng.below(4) {
        0 => {}
        1 => content.apply(change),
        2 => content.write(&data[..cuts[rng.below(cuts.len() as u64) as usize]], *offset),
        _ => {
            for i in 0..cuts.len() {
                if rng.chance(2) {
                    content.write(&data[cuts[i]..end(i)], offset + cuts[i] as u64);
                }
            }
        }
    }
}
