//! The mailbox: listed, and released by the operator.

use petnet_storage::{FromSender, MessageId, Sequence};
use tonic::Status;

use super::{failed, messages, page, party};
use crate::overview::Overview;
use crate::proto::admin::release_mailbox_request::Which;
use crate::proto::admin::{
    Changed, HeldMessage, ListMailboxRequest, ListMailboxResponse, ReleaseMailboxRequest,
};
use crate::status;

/// Whose messages are meant; empty: anybody's.
pub(super) fn sender(id: &str) -> Result<FromSender, Status> {
    Ok(if id.is_empty() { FromSender::Any } else { FromSender::Party(party(id)?) })
}

/// A page of it.
pub(super) async fn list(
    overview: &Overview,
    request: ListMailboxRequest,
) -> Result<ListMailboxResponse, Status> {
    let (from, limit) = (sender(&request.sender)?, page(request.limit));
    let found = overview.engine.topic(&from, &request.prefix, Sequence(request.after), limit).await;
    let found = found.map_err(failed)?;
    let next = found.last().filter(|_| found.len() >= limit).map(|last| last.sequence.0);
    let message = |found: petnet_storage::Found| HeldMessage {
        sender: found.sender.map(|party| party.to_string()).unwrap_or_default(),
        message_id: found.id.to_string(),
        sequence: found.sequence.0,
        len: found.len,
    };
    Ok(ListMailboxResponse { messages: found.into_iter().map(message).collect(), next })
}

/// Ends messages.
pub(super) async fn release(overview: &Overview, request: ReleaseMailboxRequest) -> Result<Changed, Status> {
    let from = sender(&request.sender)?;
    let released = match request.which {
        Some(Which::MessageId(id)) => {
            let id = MessageId::new(id).map_err(|why| status::admin_invalid(&why.to_string()))?;
            let released = overview.engine.release(&from, &id).await.map_err(failed)?;
            if !released {
                let what = format!("no message {:?} is in the mailbox", id.as_str());
                return Err(status::admin_not_found(&what));
            }
            overview.hub.record.released(&from, &id);
            tracing::info!(message_id = %id, "the operator released a message");
            1
        }
        Some(Which::Prefix(prefix)) => {
            let released = overview.engine.release_topic(&from, &prefix).await.map_err(failed)?;
            overview.hub.record.released_topic(released);
            tracing::info!(?prefix, messages = released, "the operator released messages");
            released
        }
        None => return Err(status::admin_invalid("name a message or a prefix")),
    };
    overview.engine.ends_kept().await.map_err(failed)?;
    Ok(Changed { messages: released, text: format!("{} released", messages(released)) })
}
