//! Mends the file `FORMAT`: a few bytes without which nothing else of a data folder can be used.
//!
//! It has a checksum, so one flipped bit can be found by trying each. The store's id is in every segment header, too.
//! Invariant: a text is taken for the right one only if its checksum matches and its id is that of the segments.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::log::data_folder::text::Format;
use crate::log::disk::{Disk, OpenMode};
use crate::log::segment::{LogFile, PAGE, SegmentHeader};

/// What the damaged bytes of `FORMAT` were; `None` if that cannot be determined.
pub(crate) fn right_one(disk: &dyn Disk, dir: &Path, bytes: &[u8]) -> Option<Format> {
    let ids = ids_of_segments(disk, dir).ok()?;
    // The id in most segments: one of another store may have got among them.
    let id = ids.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id);
    let fits = |text: &[u8]| {
        let format = Format::decode(std::str::from_utf8(text).ok()?)?;
        id.is_none_or(|id| id == format.store_id).then_some(format)
    };
    flipped(bytes).find_map(|text| fits(&text)).or_else(|| fits(&with_id(bytes, id?)?))
}

/// Copies of the bytes, each with another bit flipped.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(|bit| {
        let mut text = bytes.to_vec();
        text[bit / 8] ^= 1 << (bit % 8);
        text
    })
}

/// A copy of the bytes with another id in the second line.
fn with_id(bytes: &[u8], id: u128) -> Option<Vec<u8>> {
    let line = format!("id {id:032x}\n");
    let at = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let mut text = bytes.to_vec();
    text.get_mut(at..at + line.len())?.copy_from_slice(line.as_bytes());
    Some(text)
}

/// Ids of the stores that the segments belong to, with the number of segments of each.
fn ids_of_segments(disk: &dyn Disk, dir: &Path) -> io::Result<BTreeMap<u128, u64>> {
    let log = dir.join("log");
    let mut ids = BTreeMap::new();
    for name in disk.list(&log)? {
        if !matches!(LogFile::parse(&name), Some(LogFile::Segment(..))) {
            continue;
        }
        let mut page = vec![0; PAGE as usize];
        let read = disk.open(&log.join(&name), OpenMode::Read).and_then(|file| file.read_at(&mut page, 0));
        if let Ok(read) = read
            && let Ok(header) = SegmentHeader::decode(&page[..read])
        {
            *ids.entry(header.store_id).or_default() += 1;
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::data_folder::read_or_create;
    use crate::log::disk::RealDisk;

    #[test]
    fn any_flipped_bit_is_found_and_so_is_an_id_that_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (format, _) = read_or_create(&RealDisk, dir.path()).expect("creates");
        std::fs::create_dir(dir.path().join("log")).expect("creates");
        let header = SegmentHeader {
            store_id: format.store_id,
            lane: crate::log::segment::Lane::Small,
            id: 1,
            size: 1 << 20,
        };
        std::fs::write(dir.path().join("log/small-0000000001.seg"), header.encode()).expect("writes");
        let bytes = std::fs::read(dir.path().join("FORMAT")).expect("reads");
        for text in flipped(&bytes) {
            assert_eq!(right_one(&RealDisk, dir.path(), &text), Some(format), "{text:?}");
        }
        let mut gone = bytes.clone();
        gone[20..40].fill(b'?');
        assert_eq!(right_one(&RealDisk, dir.path(), &gone), Some(format));
        let mut more = bytes;
        more[70..74].fill(b'?');
        assert_eq!(right_one(&RealDisk, dir.path(), &more), None, "what nobody knows is not guessed");
    }
}
