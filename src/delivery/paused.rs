//! Peers to which the operator paused deliveries: a file in the data folder, so that a restart does not end the pause.
//!
//! The file has one party id per line, and a last line with a checksum over them ([`SUM`]); without a file nobody is
//! paused. A file without the last line comes from an older version and is read. Invariants: the file contains what
//! [`Paused::set`] wrote before it returned, whatever happens afterwards. A damaged file may have named anybody, so it
//! pauses everybody until the operator resumes them: what was not delivered can be delivered later, but a delivery cannot
//! be undone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use petnet_storage::PartyId;

/// The file's name in the data folder.
const FILE: &str = "paused";
/// Precedes the checksum (CRC-32, eight digits in lower case) of all bytes before its line. No party id begins with a tab.
const SUM: &str = "\tcrc ";

/// The paused peers, in memory and in the file.
#[derive(Debug)]
pub(crate) struct Paused {
    folder: PathBuf,
    peers: Mutex<PausedPeers>,
}

#[derive(Debug)]
struct PausedPeers {
    paused: BTreeSet<PartyId>,
    /// Why the file does not say who is meant, if it is damaged.
    damage: Option<String>,
}

/// What is wrong with the file in a data folder: every peer is then paused. `None` if nothing is wrong, or there is no
/// file.
pub(crate) fn damage(folder: &Path) -> Option<String> {
    read(folder).err()
}

fn read(folder: &Path) -> Result<BTreeSet<PartyId>, String> {
    let path = folder.join(FILE);
    let shown = path.display();
    match crate::rules::regular::read(&path) {
        Ok(bytes) => parse(&bytes).map_err(|why| format!("{shown} is damaged: {why}")),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(why) => Err(format!("{shown} cannot be read: {why}")),
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeSet<PartyId>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let body = text.strip_suffix('\n').unwrap_or(text);
    let (above, last) = body.split_at(body.rfind('\n').map_or(0, |end| end + 1));
    let ids = match last.strip_prefix(SUM) {
        Some(sum) if sum == format!("{:08x}", crc32fast::hash(above.as_bytes())) => above,
        Some(_) => return Err("its checksum is that of other content"),
        None if ends_as_a_sum(last) => return Err("its last line is not whole"),
        None => text,
    };
    let parsed = ids.lines().filter(|line| !line.is_empty()).map(PartyId::new);
    parsed.collect::<Result<_, _>>().map_err(|_| "a line is no party id")
}

fn ends_as_a_sum(line: &str) -> bool {
    let Some((_, sum)) = line.rsplit_once(SUM.trim_start()) else { return false };
    sum.len() == 8 && sum.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Paused {
    /// Loads what the file in the data folder says. A damaged file pauses all `peers`.
    pub(crate) fn load<'p>(folder: &Path, peers: impl IntoIterator<Item = &'p PartyId>) -> Self {
        let (paused, damage) = match read(folder) {
            Ok(paused) => (paused, None),
            Err(why) => {
                tracing::error!(
                    "{why}; it may have named anybody, so deliveries to EVERY peer are paused: petnet queue resume begins them \
                     again, and petnet queue pause or resume writes the file again"
                );
                (peers.into_iter().cloned().collect(), Some(why))
            }
        };
        Self { folder: folder.into(), peers: Mutex::new(PausedPeers { paused, damage }) }
    }

    /// Whether a peer is paused.
    pub(crate) fn has(&self, peer: &PartyId) -> bool {
        self.peers.lock().paused.contains(peer)
    }

    /// Why everybody is paused, as long as that is so.
    pub(crate) fn damage(&self) -> Option<String> {
        self.peers.lock().damage.clone()
    }

    /// Pauses or resumes a peer, durably, and then calls `then` before anybody else can change it. False if that was so
    /// already. Blocks.
    pub(crate) fn set(&self, peer: &PartyId, paused: bool, then: impl FnOnce()) -> io::Result<bool> {
        let mut peers = self.peers.lock();
        let mut changed = peers.paused.clone();
        let is_new = if paused { changed.insert(peer.clone()) } else { changed.remove(peer) };
        if is_new || peers.damage.is_some() {
            self.write(&changed)?;
            *peers = PausedPeers { paused: changed, damage: None };
        }
        then();
        Ok(is_new)
    }

    fn write(&self, peers: &BTreeSet<PartyId>) -> io::Result<()> {
        let mut ids = String::new();
        for peer in peers {
            ids.push_str(peer.as_str());
            ids.push('\n');
        }
        let mut file = tempfile::Builder::new().prefix(".paused-").tempfile_in(&self.folder)?;
        writeln!(file, "{ids}{SUM}{:08x}", crc32fast::hash(ids.as_bytes()))?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(FILE)).map_err(|failed| failed.error)?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::party;

    fn load(folder: &Path) -> Paused {
        Paused::load(folder, &[party("b"), party("c"), party("d")])
    }

    #[test]
    fn who_is_paused_stays_so_until_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let paused = load(folder.path());
        assert!(
            paused.set(&party("b"), true, || ()).unwrap() && paused.set(&party("c"), true, || ()).unwrap()
        );
        assert!(!paused.set(&party("b"), true, || ()).unwrap(), "it is already");
        let again = load(folder.path());
        assert!(again.has(&party("b")) && again.has(&party("c")) && !again.has(&party("d")));
        assert!(again.set(&party("b"), false, || ()).unwrap());
        assert!(!load(folder.path()).has(&party("b")));
        assert!(load(folder.path()).set(&party("c"), false, || ()).unwrap());
        assert!(!load(folder.path()).has(&party("c")), "nobody is paused");
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let paused = load(&folder.path().join("missing"));
        assert!(paused.set(&party("b"), true, || ()).is_err());
        assert!(!paused.has(&party("b")));
    }

    #[test]
    fn a_file_of_an_older_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (text, paused) in [("b\n\nc", true), ("b\nc\n", true), ("", false)] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let read = load(folder.path());
            assert_eq!((read.has(&party("b")), read.has(&party("d"))), (paused, false), "{text:?}");
            assert_eq!(read.damage(), None);
        }
    }

    /// A single flipped bit used to resume a peer while `petnet verify` reported that all was well.
    #[test]
    fn no_flipped_bit_and_no_lost_end_resumes_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        load(folder.path()).set(&party("b"), true, || ()).unwrap();
        let whole = std::fs::read(&file).unwrap();
        let damaged = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let others = [b"\xff\xfegarbage\n".to_vec(), b"b\nwith\x07bell\n".to_vec(), whole[..5].to_vec()];
        for bytes in damaged.chain(others) {
            std::fs::write(&file, &bytes).unwrap();
            let read = load(folder.path());
            assert!(read.has(&party("b")), "{:?} resumed it", String::from_utf8_lossy(&bytes));
            assert_eq!(read.has(&party("c")), read.damage().is_some(), "who else may have been meant");
        }
        std::fs::write(&file, b"\xff").unwrap();
        let read = load(folder.path());
        assert!(damage(folder.path()).is_some_and(|why| why.contains("is damaged: it is no text")));
        assert!(
            !read.set(&party("c"), true, || ()).unwrap() && read.damage().is_none(),
            "it is written again"
        );
        assert!(load(folder.path()).set(&party("b"), false, || ()).unwrap());
        let after = load(folder.path());
        assert!(!after.has(&party("b")) && after.has(&party("c")) && after.has(&party("d")));
    }
}
