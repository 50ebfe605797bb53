//! A send that is tried until it is answered: every attempt has the same key, so that the gateway takes them for one send.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use petnet_storage::{MessageId, PartyId, SendKey};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cli::messages::client::{self, failure};
use crate::cli::messages::patience::{AttemptFailure, is_passing};
use crate::proto::mailbox::SendRequest;
use crate::proto::mailbox::mailbox_client::MailboxClient;
use crate::wire::status::ERROR_CODE;

/// The key of a new send.
pub(crate) fn new_key() -> anyhow::Result<Bytes> {
    let mut key = [0; SendKey::BYTES];
    getrandom::fill(&mut key).context("no random numbers for the key of the send")?;
    Ok(Bytes::copy_from_slice(&key))
}

/// One attempt. An old gateway knows no keys: there it is a call of `petnet.simple.v1`.
pub(crate) async fn try_send(
    channel: Channel,
    (to, id): (&PartyId, &MessageId),
    payload: Bytes,
    key: Bytes,
    limit: Duration,
) -> Result<(), AttemptFailure> {
    let (message_id, receiver_id) = (id.as_str().into(), to.as_str().into());
    let request = SendRequest { message_id, receiver_id, payload: payload.clone(), key };
    match timeout(limit, MailboxClient::new(channel.clone()).send(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            client::try_send(&mut client::client(channel), to, id, payload, limit).await
        }
        Ok(Err(status)) if is_passing(&status) => {
            let why = failure(&status);
            Err(AttemptFailure::Passing(anyhow!("cannot send {id:?} to {to}: the gateway answered {why}")))
        }
        Ok(Err(status)) => {
            Err(AttemptFailure::Final(anyhow!("{id:?} for {to} was not accepted: {}", refusal(&status))))
        }
        Err(_) => Err(AttemptFailure::Final(anyhow!(
            "no answer from the gateway within {limit:?}; {id:?} may or may not be accepted: sending it again with the \
             same id is safe while it is pending (petnet track says)"
        ))),
    }
}

/// The text of a refusal, with its number.
fn refusal(status: &Status) -> String {
    match status.metadata().get(ERROR_CODE).and_then(|number| number.to_str().ok()) {
        Some(number) => format!("error {number}: {}", status.message()),
        None => failure(status),
    }
}
