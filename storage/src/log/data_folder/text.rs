//! The text of the file `FORMAT`: `petnet-store <version>`, the id of the store, the secret of its index keys, and a
//! checksum.

use crate::log::segment::FORMAT_VERSION;

/// The contents of `FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) store_id: u128,
    pub(crate) key_secret: (u64, u64),
}

impl Format {
    /// The text of the file.
    pub(crate) fn encode(&self) -> String {
        let body = format!(
            "petnet-store {FORMAT_VERSION}\nid {:032x}\nkey {:016x}{:016x}\n",
            self.store_id, self.key_secret.0, self.key_secret.1
        );
        format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    /// Decodes a text; `None` unless it is of this version and its checksum matches.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let body_len = text.find("crc ")?;
        let crc = text[body_len + 4..].trim_end();
        if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(&text.as_bytes()[..body_len])) {
            return None;
        }
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("petnet-store ")?;
        version.parse().ok().filter(|version: &u32| *version == FORMAT_VERSION)?;
        let id = lines.next()?.strip_prefix("id ")?;
        let key = u128::from_str_radix(lines.next()?.strip_prefix("key ")?, 16).ok()?;
        Some(Self {
            store_id: u128::from_str_radix(id, 16).ok()?,
            key_secret: ((key >> 64) as u64, key as u64),
        })
    }
}
