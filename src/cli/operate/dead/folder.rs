//! The folder of an export: payload files and their index.
//!
//! Order: a payload file is written under a temporary name, synced, and linked to its own name, which fails if that exists;
//! the folder is synced; then an index that names the file replaces the previous index, and the folder is synced again. So
//! a crash leaves files that no index names, which the next export compares, and never an index that names what is not
//! there.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ring::digest::{Context as Digest, SHA256};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::proto::admin::DeadLetter;

const INDEX: &str = "index.json";
/// Prefix of files that are not whole yet.
const UNFINISHED: &str = ".petnet-export-";
/// Room for an index of a million letters; a larger file is not ours.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// One letter in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    sequence: u64,
    peer: String,
    /// Whether it arrived from that party. Earlier versions did not export such letters.
    #[serde(default)]
    arrived: bool,
    message_id: String,
    len: u64,
    sha256: String,
    reason: String,
    reason_text: String,
    file: String,
}

impl Entry {
    pub(crate) fn new(letter: &DeadLetter, sha256: String) -> Self {
        Self {
            sequence: letter.sequence,
            peer: letter.peer.clone(),
            arrived: letter.arrived,
            message_id: letter.message_id.clone(),
            len: letter.len,
            sha256,
            reason: letter.reason.clone(),
            reason_text: letter.reason_text.clone(),
            file: format!("{}.payload", letter.sequence),
        }
    }

    fn is_of(&self, letter: &DeadLetter) -> bool {
        (self.sequence, &self.peer, &self.message_id, self.len)
            == (letter.sequence, &letter.peer, &letter.message_id, letter.len)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    /// The party whose letters these are.
    party: String,
    letters: Vec<Entry>,
}

/// Whether a payload file was written just now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PlacedFile {
    Written,
    /// It was there, from an export that was cut off.
    WasThere,
}

/// The folder of an export, locked against a second export.
#[derive(Debug)]
pub(crate) struct ExportFolder {
    path: PathBuf,
    party: String,
    letters: BTreeMap<u64, Entry>,
    folder: File,
}

impl ExportFolder {
    /// Creates the folder if it is missing, and reads its index.
    pub(crate) fn open(path: &Path, party: &str) -> anyhow::Result<Self> {
        let shown = path.display();
        // What is in it is not for others to read.
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => sync_parent(path)?,
            Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
            Err(why) => return Err(why).with_context(|| format!("cannot create {shown}")),
        }
        let folder = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("cannot lock {shown}: is another export writing there?"))?;
        let index = read_index(&path.join(INDEX))?;
        if let Some(index) = index.as_ref().filter(|index| index.party != party) {
            bail!(
                "{shown} has letters of {}, and this gateway is {party}; choose another folder",
                index.party
            );
        }
        let letters = index.map(|index| index.letters).unwrap_or_default();
        let letters = letters.into_iter().map(|entry| (entry.sequence, entry)).collect();
        let folder = Self { path: path.into(), party: party.into(), letters, folder };
        folder.remove_unfinished()?;
        Ok(folder)
    }

    /// Removes what a killed export left; the lock guarantees that nobody is writing it any more.
    fn remove_unfinished(&self) -> anyhow::Result<()> {
        let shown = self.path.display();
        for file in fs::read_dir(&self.path).with_context(|| format!("cannot look into {shown}"))? {
            let file = file.with_context(|| format!("cannot look into {shown}"))?;
            if file.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(file.path())
                    .with_context(|| format!("cannot remove {}", file.path().display()))?;
            }
        }
        Ok(())
    }

    /// True if the letter is in the index and its file is as the index says.
    pub(crate) fn has(&self, letter: &DeadLetter) -> anyhow::Result<bool> {
        let Some(entry) = self.letters.get(&letter.sequence) else { return Ok(false) };
        let file = self.path.join(&entry.file);
        if !entry.is_of(letter) {
            bail!(
                "{} is of another letter than number {} of this gateway: its store was newly made since that export; choose \
                 another folder",
                file.display(),
                letter.sequence
            );
        }
        match sha256(&file) {
            Ok(found) if found == entry.sha256 => Ok(true),
            Ok(_) => bail!("{} is not what {INDEX} says: it was changed; move it away", file.display()),
            // Somebody removed it: it is written again.
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Creates a file for a payload, without its name yet.
    pub(crate) fn begin(&self) -> anyhow::Result<NamedTempFile> {
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.path);
        file.with_context(|| format!("cannot write into {}", self.path.display()))
    }

    /// Gives a payload that is whole its name.
    pub(crate) fn place(&mut self, file: NamedTempFile, entry: Entry) -> anyhow::Result<PlacedFile> {
        let target = self.path.join(&entry.file);
        let cannot = || format!("cannot write {}", target.display());
        file.as_file().sync_all().with_context(cannot)?;
        let placed = match file.persist_noclobber(&target) {
            Ok(_) => PlacedFile::Written,
            Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => {
                let found = sha256(&target).with_context(|| format!("cannot read {}", target.display()))?;
                if found != entry.sha256 {
                    bail!(
                        "{} is there with other content, and nothing is overwritten; move it away or choose another folder",
                        target.display()
                    );
                }
                PlacedFile::WasThere
            }
            Err(failed) => return Err(failed.error).with_context(cannot),
        };
        self.letters.insert(entry.sequence, entry);
        Ok(placed)
    }

    /// Writes an index that names everything placed so far.
    pub(crate) fn write_index(&self) -> anyhow::Result<()> {
        let target = self.path.join(INDEX);
        let write = || -> anyhow::Result<()> {
            // This syncs the files that it names, including those of an export that was cut off before this.
            self.folder.sync_all()?;
            let index =
                Index { party: self.party.clone(), letters: self.letters.values().cloned().collect() };
            let mut file = self.begin()?;
            serde_json::to_writer_pretty(std::io::BufWriter::new(&mut file), &index)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&target)?;
            Ok(self.folder.sync_all()?)
        };
        write().with_context(|| format!("cannot write {}", target.display()))
    }
}

fn read_index(file: &Path) -> anyhow::Result<Option<Index>> {
    let shown = file.display();
    let mut text = String::new();
    match File::open(file) {
        Ok(open) => {
            open.take(MAX_INDEX_BYTES)
                .read_to_string(&mut text)
                .with_context(|| format!("cannot read {shown}"))?;
        }
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why).with_context(|| format!("cannot read {shown}")),
    }
    let index = serde_json::from_str(&text);
    index.map(Some).with_context(|| format!("{shown} is not of an earlier export; choose another folder"))
}

fn sha256(file: &Path) -> std::io::Result<String> {
    let (mut file, mut digest, mut bytes) = (File::open(file)?, Digest::new(&SHA256), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            n => digest.update(&bytes[..n]),
        }
    }
    Ok(hex(digest))
}

/// The digest in hexadecimal, as checksum tools write it.
pub(crate) fn hex(digest: Digest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    digest.finish().as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn sync_parent(path: &Path) -> anyhow::Result<()> {
    let parent = crate::config::parent_of(path);
    let sync = || File::open(parent)?.sync_all();
    sync().with_context(|| format!("cannot sync {}", parent.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn letter(sequence: u64, id: &str, content: &[u8]) -> DeadLetter {
        DeadLetter {
            sequence,
            peer: "b".into(),
            message_id: id.into(),
            len: content.len() as u64,
            reason: "expired".into(),
            ..DeadLetter::default()
        }
    }

    fn entry(letter: &DeadLetter, content: &[u8]) -> Entry {
        let mut digest = Digest::new(&SHA256);
        digest.update(content);
        Entry::new(letter, hex(digest))
    }

    fn place(folder: &mut ExportFolder, letter: &DeadLetter, content: &[u8]) -> anyhow::Result<PlacedFile> {
        let mut file = folder.begin()?;
        file.write_all(content)?;
        folder.place(file, entry(letter, content))
    }

    #[test]
    fn an_export_that_was_cut_off_goes_on_and_one_that_was_not_has_everything() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("letters");
        let (one, two) = (letter(1, "../../etc/passwd", b"one"), letter(2, "two", b""));
        let mut folder = ExportFolder::open(&to, "a").unwrap();
        assert!(ExportFolder::open(&to, "a").is_err(), "a second export writes there");
        assert_eq!(place(&mut folder, &one, b"one").unwrap(), PlacedFile::Written);
        // Like after a kill: no index yet, and half a file.
        fs::write(to.join(format!("{UNFINISHED}x")), "half").unwrap();
        drop(folder);

        let mut folder = ExportFolder::open(&to, "a").unwrap();
        assert!(!to.join(format!("{UNFINISHED}x")).exists());
        assert!(!folder.has(&one).unwrap(), "nobody compared it yet");
        assert_eq!(place(&mut folder, &one, b"one").unwrap(), PlacedFile::WasThere);
        assert_eq!(place(&mut folder, &two, b"").unwrap(), PlacedFile::Written);
        folder.write_index().unwrap();
        drop(folder);

        let folder = ExportFolder::open(&to, "a").unwrap();
        assert!(folder.has(&one).unwrap() && folder.has(&two).unwrap());
        assert_eq!(fs::read(to.join("1.payload")).unwrap(), b"one");
        let index: Index = serde_json::from_slice(&fs::read(to.join(INDEX)).unwrap()).unwrap();
        assert_eq!(index.letters, [entry(&one, b"one"), entry(&two, b"")]);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
        fs::remove_file(to.join("1.payload")).unwrap();
        assert!(!folder.has(&one).unwrap(), "it was taken away");
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let one = letter(1, "one", b"one");
        fs::write(dir.path().join("1.payload"), "mine").unwrap();
        let mut folder = ExportFolder::open(dir.path(), "a").unwrap();
        let why = place(&mut folder, &one, b"one").unwrap_err().to_string();
        assert!(why.contains("there with other content"), "{why}");
        assert_eq!(fs::read(dir.path().join("1.payload")).unwrap(), b"mine");
        fs::remove_file(dir.path().join("1.payload")).unwrap();
        place(&mut folder, &one, b"one").unwrap();
        folder.write_index().unwrap();

        let why = folder.has(&letter(1, "another", b"one")).unwrap_err().to_string();
        assert!(why.contains("of another letter"), "{why}");
        fs::write(dir.path().join("1.payload"), "changed").unwrap();
        assert!(folder.has(&one).unwrap_err().to_string().contains("was changed"));
        drop(folder);
        let why = ExportFolder::open(dir.path(), "b").unwrap_err().to_string();
        assert!(why.contains("has letters of a"), "{why}");
        fs::write(dir.path().join(INDEX), "{\"my\": \"own\"}").unwrap();
        let why = ExportFolder::open(dir.path(), "a").unwrap_err().to_string();
        assert!(why.contains("not of an earlier export"), "{why}");
    }
}
