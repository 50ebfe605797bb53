//! Copies of folders on real file systems: where the original index must not change, a copy is opened.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::{fs, io};

/// Bytes of all files in a folder; 0 if there is none.
pub(crate) fn tree_bytes(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { tree_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Copies the folder `from` and its contents to `to`, which must not exist.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.metadata()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            // Readable only by those who can read the data folder, whatever the mode of the original.
            let mut copy = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
            io::copy(&mut fs::File::open(entry.path())?, &mut copy)?;
        }
    }
    Ok(())
}
