//! The mailbox in order of arrival: the tree `arrivals`, kept beside `mail`, with the ids, so that it can be searched for ids
//! that begin with a prefix. Entries of earlier versions have no id.
//!
//! It is trusted as little as the rest: an entry counts only if `mail` has the message, and a start that finds it different from
//! `mail` rebuilds it (`opening/index_check.rs`). So an index written by a version without it gets it automatically.

use sled::IVec;

use super::{Cold, Result, keys_after, pending_key};
use crate::index::entry::Entry;
use crate::index::on_disk::bytes::decode_mail_with_id;
use crate::log::codec::Short;

/// Bytes of a key; in an entry the id follows it.
const KEY: usize = 16;

/// Key, party and id of a message. There is no id if the entry has none.
pub(crate) type DiskListItem = (u128, u16, Option<Box<str>>);

impl Cold {
    /// Mailbox messages of a sender after a sequence, in order, each with its sequence.
    pub(crate) fn arrivals_after(
        &self,
        sender: u16,
        after: u64,
    ) -> impl Iterator<Item = Result<(u64, DiskListItem)>> + use<> {
        self.arrivals.range(keys_after(sender, after)).map(move |item| {
            let item = item?;
            let (_, sequence, key) = arrival(&item)?;
            let id = item.1.get(KEY..).filter(|id| !id.is_empty());
            Ok((sequence, (key, sender, id.map(|id| String::from_utf8_lossy(id).into()))))
        })
    }

    /// Sender, sequence and key of every mailbox message, according to the tree.
    pub(crate) fn all_arrivals(&self) -> impl Iterator<Item = Result<(u16, u64, u128)>> + use<> {
        self.arrivals.iter().map(|item| arrival(&item?))
    }

    /// Enters a message of `mail`.
    pub(crate) fn list(&self, key: u128, entry: &Entry, id: Option<&str>) -> Result<()> {
        let value = [&key.to_be_bytes(), id.unwrap_or_default().as_bytes()].concat();
        self.arrivals.insert(pending_key(entry.party, entry.sequence), value)?;
        Ok(())
    }

    /// Removes a message from the tree. Returns true if it was there.
    pub(crate) fn unlist(&self, entry: &Entry) -> Result<bool> {
        Ok(self.arrivals.take(pending_key(entry.party, entry.sequence))?.is_some())
    }

    /// Rebuilds the tree from what is in `mail`.
    pub(crate) fn rebuild_arrivals(&self) -> Result<()> {
        self.arrivals.clear()?;
        for item in self.mail.iter() {
            let (key, value) = item?;
            let (entry, id) = decode_mail_with_id(&value)?;
            let key = key.as_ref().try_into().map_err(|_| Short)?;
            self.list(u128::from_be_bytes(key), &entry, id)?;
        }
        Ok(())
    }
}

/// Sender, sequence and key of an entry.
fn arrival((at, key): &(IVec, IVec)) -> Result<(u16, u64, u128)> {
    let key = key.first_chunk::<KEY>().ok_or(Short)?;
    // Big-endian, as `pending_key` writes it; `Fields` reads little-endian.
    let at: [u8; 10] = at.as_ref().try_into().map_err(|_| Short)?;
    let (sender, sequence) = at.split_first_chunk().ok_or(Short)?;
    let sequence = sequence.try_into().map_err(|_| Short)?;
    Ok((u16::from_be_bytes(*sender), u64::from_be_bytes(sequence), u128::from_be_bytes(*key)))
}
