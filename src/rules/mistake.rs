//! What is wrong with the settings and the files that belong to them, and whether it may pass by itself.
//!
//! A wrong value stays wrong until somebody corrects it, so a supervisor need not start the gateway again. A disk or a
//! network file system that fails for a moment recovers by itself, and then the gateway has to be started again.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Deref;

/// One thing that is wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    what: String,
    passes: bool,
}

impl Mistake {
    /// A file or folder could not be used. `what` says which and why; `why` decides whether that may pass.
    pub(crate) fn of_io(what: String, why: &io::Error) -> Self {
        Self { what, passes: may_pass(why) }
    }

    /// The mistake with its place put in front.
    pub(crate) fn at(self, place: &str) -> Self {
        Self { what: format!("{place}: {}", self.what), ..self }
    }

    /// Whether it may have gone away at the next try without anybody doing anything.
    pub fn passes(&self) -> bool {
        self.passes
    }
}

/// True for every error except those that only a change of the file, its name or its mode can mend. A read-only file system
/// may pass: after a disk error it is remounted read-only until the machine has checked it.
fn may_pass(why: &io::Error) -> bool {
    !matches!(
        why.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::InvalidFilename
    )
}

/// Several mistakes in one line.
pub(crate) fn in_a_line(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<String> for Mistake {
    fn from(what: String) -> Self {
        Self { what, passes: false }
    }
}

impl From<&str> for Mistake {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

impl Deref for Mistake {
    type Target = str;

    fn deref(&self) -> &str {
        &self.what
    }
}

/// Written in one line: it may contain names that others chose, and it is shown on terminals.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_debug()) } else { write!(f, "{c}") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_says_for_a_moment_passes_and_a_wrong_name_does_not() {
        // As in <asm-generic/errno.h>: EIO, ENFILE, EMFILE, ENOMEM, EINTR, EAGAIN, ENOSPC, EROFS, ESTALE, ETIMEDOUT, ENOTCONN.
        for number in [5, 23, 24, 12, 4, 11, 28, 30, 116, 110, 107] {
            let why = io::Error::from_raw_os_error(number);
            assert!(Mistake::of_io("x".into(), &why).passes(), "{why}");
        }
        // ENOENT, EACCES, EPERM, ENOTDIR, EISDIR, ENAMETOOLONG.
        for number in [2, 13, 1, 20, 21, 36] {
            let why = io::Error::from_raw_os_error(number);
            assert!(!Mistake::of_io("x".into(), &why).passes(), "{why}");
        }
        assert!(!Mistake::from("a value").passes());
        assert_eq!(Mistake::from("a\x1b[2J\nb").to_string(), "a\\u{1b}[2J\\nb");
    }
}
