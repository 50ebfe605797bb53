//! The gRPC face for peers: `ServerSimpleSend`, from our own gateways (which name themselves and the delivery in the
//! metadata) and from Python PETNet (which does neither).

use crate::server::connections::ConnectionInfo;
use bytes::Bytes;
use petnet_storage::{DeliveryIdentity, PartyId, StoreError, Stored};
use tonic::Request;

use crate::mailbox::Mailbox;
use crate::proto::simple::{Response, ServerSimpleSendRequest};
use crate::rules::access::{self, Caller};
use crate::rules::refusal::Refusal;
use crate::wire::{metadata, status};

/// Keeps a delivery. A repeated or stale one is acknowledged like a new one, since the peer has to settle it.
pub(crate) async fn deliver(
    mailbox: &Mailbox,
    request: Request<ServerSimpleSendRequest>,
) -> Result<Response, Refusal> {
    let bad = |e: metadata::BadMetadata| Refusal::Invalid(e.to_string());
    let caller = ConnectionInfo::caller_of(request.extensions());
    let sender = access::sender(&caller, metadata::sender(request.metadata()).map_err(bad)?)?;
    let mut identity = metadata::identity(request.metadata()).map_err(bad)?;
    if caller == Caller::Unnamed {
        // An identity belongs to a sender, and no sender is proved.
        identity = None;
    }
    if identity.is_some() && sender.is_none() {
        return Err(Refusal::Invalid(format!(
            "a delivery with an identity must name its sender ({})",
            metadata::SENDER
        )));
    }
    let ServerSimpleSendRequest { message_id, payload } = request.into_inner();
    store(mailbox, sender, &message_id, payload, identity).await?;
    Ok(status::done())
}

/// Keeps a delivery, whichever way it came.
pub(crate) async fn store(
    mailbox: &Mailbox,
    sender: Option<PartyId>,
    message_id: &str,
    payload: Bytes,
    identity: Option<DeliveryIdentity>,
) -> Result<(), Refusal> {
    let stored = mailbox.store(sender.clone(), message_id, payload, identity).await;
    tell(sender.as_ref(), message_id, stored)
}

/// Logs what became of a delivery. A repeated or stale one counts as kept.
pub(crate) fn tell(
    sender: Option<&PartyId>,
    message_id: &str,
    stored: Result<Stored, Refusal>,
) -> Result<(), Refusal> {
    let sender = sender.map(tracing::field::display);
    match &stored {
        Ok(Stored::New(_)) => {}
        Ok(Stored::Repeated) => tracing::debug!(sender, message_id, "repeated delivery"),
        Ok(Stored::Stale) => {
            tracing::info!(sender, message_id, "late delivery of a message that a newer one replaced");
        }
        Err(refusal @ (Refusal::Denied(_) | Refusal::Store(StoreError::TooOld { .. }))) => {
            tracing::warn!(sender, message_id, %refusal, "delivery refused");
        }
        Err(refusal) => tracing::debug!(sender, message_id, %refusal, "delivery refused"),
    }
    stored.map(|_| ())
}
