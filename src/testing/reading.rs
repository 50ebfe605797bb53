//! The rule for receives that name no sender, as the engine in memory has it.

use std::collections::HashMap;

use petnet_storage::{DeliveryIdentity, Handed, Held, MessageId, PartyId, Result, StoreError};

/// Mail by sender and id.
type Mail = HashMap<(Option<PartyId>, MessageId), (Held, Option<DeliveryIdentity>)>;

/// Notes that messages were handed to readers.
pub(super) fn note(mail: &mut Mail, messages: &[Handed]) {
    for Handed { sender, id, sequence } in messages {
        let held = mail.get_mut(&(sender.clone(), id.clone())).map(|(held, _)| held);
        held.into_iter().filter(|held| held.sequence == *sequence).for_each(|held| held.unread = false);
    }
}

/// The message that a receive without a sender gets: an unread one before one that was read; two unread messages are
/// refused.
pub(super) fn chosen<'a>(id: &MessageId, messages: impl Iterator<Item = &'a Held>) -> Result<Option<Held>> {
    let (unread, read): (Vec<_>, Vec<_>) = messages.partition(|message| message.unread);
    if unread.len() > 1 {
        let senders = unread.iter().map(|m| m.sender.as_ref().map_or("", PartyId::as_str).to_owned());
        return Err(StoreError::Ambiguous { id: id.to_string(), senders: senders.collect() });
    }
    let read = read.into_iter().max_by_key(|message| message.sequence);
    Ok(unread.into_iter().next().or(read).cloned())
}
