//! Peers to which the operator paused deliveries: a file in the data folder, so that a restart does not end the pause.
//!
//! One party id a line; no file: none. Invariant: the file has what [`Paused::set`] said before it returned, whatever
//! happens afterwards. One that cannot be read stops nothing: it is told, and counts as empty.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use petnet_storage::PartyId;

/// Its name in the data folder.
const FILE: &str = "paused";

/// See the module.
#[derive(Debug)]
pub(crate) struct Paused {
    folder: PathBuf,
    peers: Mutex<BTreeSet<PartyId>>,
}

impl Paused {
    /// What the file in the data folder says.
    pub(crate) fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|why| {
            if why.kind() != io::ErrorKind::NotFound {
                let path = path.display();
                tracing::warn!(%path, %why, "cannot read which peers are paused; none is");
            }
            String::new()
        });
        let peers = text.lines().filter(|line| !line.is_empty()).filter_map(|line| {
            let peer = PartyId::new(line);
            if let Err(why) = &peer {
                tracing::warn!(path = %path.display(), %why, "a line that is no party id is left out");
            }
            peer.ok()
        });
        Self { folder: folder.into(), peers: Mutex::new(peers.collect()) }
    }

    /// Whether a peer is paused.
    pub(crate) fn has(&self, peer: &PartyId) -> bool {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// Pauses or resumes a peer, durably, and then calls `then` before anybody else can change it. False: it was so
    /// already. Blocks.
    pub(crate) fn set(&self, peer: &PartyId, paused: bool, then: impl FnOnce()) -> io::Result<bool> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = peers.clone();
        let is_new = if paused { changed.insert(peer.clone()) } else { changed.remove(peer) };
        if is_new {
            self.write(&changed)?;
            *peers = changed;
        }
        then();
        Ok(is_new)
    }

    fn write(&self, peers: &BTreeSet<PartyId>) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".paused-").tempfile_in(&self.folder)?;
        for peer in peers {
            writeln!(file, "{peer}")?;
        }
        file.as_file().sync_all()?;
        file.persist(self.folder.join(FILE)).map_err(|failed| failed.error)?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::party;

    #[test]
    fn who_is_paused_stays_so_until_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let paused = Paused::load(folder.path());
        assert!(
            paused.set(&party("b"), true, || ()).unwrap() && paused.set(&party("c"), true, || ()).unwrap()
        );
        assert!(!paused.set(&party("b"), true, || ()).unwrap(), "it is already");
        let again = Paused::load(folder.path());
        assert!(again.has(&party("b")) && again.has(&party("c")) && !again.has(&party("d")));
        assert!(again.set(&party("b"), false, || ()).unwrap());
        assert!(!Paused::load(folder.path()).has(&party("b")));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let paused = Paused::load(&folder.path().join("missing"));
        assert!(paused.set(&party("b"), true, || ()).is_err());
        assert!(!paused.has(&party("b")));
        std::fs::write(folder.path().join(FILE), "b\n\nwith\u{7}bell\n").unwrap();
        let read = Paused::load(folder.path());
        assert!(read.has(&party("b")));
    }
}
