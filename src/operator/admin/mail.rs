//! The mailbox: listed, and released from by the operator.

use petnet_storage::{FromSender, MessageId, PartyId, Sequence};
use tonic::Status;

use super::{failed, messages, of_room, page, party};
use crate::operator::overview::Overview;
use crate::proto::admin::release_mailbox_request::Which;
use crate::proto::admin::{
    Changed, HeldMessage, ListMailboxRequest, ListMailboxResponse, ReleaseMailboxRequest, SenderChange,
};
use crate::record::plain_reads::SenderSwitch;
use crate::wire::status;

/// The sender whose messages are meant; any sender if `id` is empty.
pub(super) fn sender(id: &str) -> Result<FromSender, Status> {
    Ok(if id.is_empty() { FromSender::Any } else { FromSender::Party(party(id)?) })
}

/// A page of the mailbox.
pub(super) async fn list(
    overview: &Overview,
    request: ListMailboxRequest,
) -> Result<ListMailboxResponse, Status> {
    let (from, limit) = (sender(&request.sender)?, page(request.limit));
    let found = overview.engine.topic(&from, &request.prefix, Sequence(request.after), limit).await;
    let found = found.map_err(failed)?;
    let next = found.last().filter(|_| found.len() >= limit).map(|last| last.sequence.0);
    let plain = &overview.record.plain_reads;
    let message = |found: petnet_storage::Found| HeldMessage {
        sender: found.sender.map(|party| party.to_string()).unwrap_or_default(),
        message_id: found.id.to_string(),
        sequence: found.sequence.0,
        len: found.len,
        unread: found.unread,
        age_seconds: found.age,
        change: plain.last_change(&found.id).map(shown),
    };
    Ok(ListMailboxResponse { messages: found.into_iter().map(message).collect(), next })
}

/// A change of sender as the operator sees it.
fn shown(change: SenderSwitch) -> SenderChange {
    let name = |party: Option<PartyId>| party.map(|party| party.to_string()).unwrap_or_default();
    SenderChange { before: name(change.before), now: name(change.now), at_ms: change.at_ms }
}

/// Releases messages.
pub(super) async fn release(overview: &Overview, request: ReleaseMailboxRequest) -> Result<Changed, Status> {
    let from = sender(&request.sender)?;
    let room = of_room(overview);
    let of = if request.sender.is_empty() { String::new() } else { format!(" of {}", request.sender) };
    let mut nothing = format!("nothing{of} is in the mailbox");
    let released = match request.which {
        Some(Which::MessageId(id)) => {
            let id = MessageId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))?;
            // The operator has seen from whom there are messages; without a sender, all of them are meant.
            let held = overview.engine.held(&from, &id).await.map_err(failed)?;
            let mut released = 0;
            for from in held.into_iter().map(|found| FromSender::from(found.sender)) {
                if overview.engine.release(&from, &id).await.map_err(failed)? {
                    overview.record.released(&from, &id);
                    tracing::info!(message_id = %id, ?from, "the operator released a message");
                    released += 1;
                }
            }
            if released == 0 {
                let what = format!("no message {:?}{of} is in the mailbox", id.as_str());
                return Err(status::admin_not_found(&what));
            }
            released
        }
        Some(Which::Prefix(prefix)) if prefix.is_empty() => {
            let why = "an empty prefix would end every message; if that is meant, say all";
            return Err(status::admin_invalid(why));
        }
        Some(Which::Prefix(prefix)) => {
            nothing = format!("no message{of} whose id begins with {prefix:?} is in the mailbox");
            release_prefix(overview, &from, &prefix).await?
        }
        Some(Which::All(true)) => release_prefix(overview, &from, "").await?,
        Some(Which::All(false)) | None => {
            return Err(status::admin_invalid("name a message or a prefix, or say all"));
        }
    };
    overview.engine.ends_kept().await.map_err(failed)?;
    let text = match released {
        0 => nothing,
        some => format!("{} released{room}", messages(some)),
    };
    Ok(Changed { messages: released, text, failed: 0 })
}

async fn release_prefix(overview: &Overview, from: &FromSender, prefix: &str) -> Result<u64, Status> {
    let released = overview.engine.release_topic(from, prefix).await.map_err(failed)?;
    overview.record.released_topic(released);
    tracing::info!(prefix, messages = released, "the operator released messages");
    Ok(released)
}
