//! What the gateway says about a send besides its message: its key, by which a repeated attempt is recognised.

use crate::face::error::{Result, StoreError};
use crate::face::message::{MessageId, PartyId, SendKey, Sequence};
use crate::redis::calls::store::RedisStore;
use crate::redis::calls::write_lane::{WriteOutcome, WriteRequest};
use crate::redis::connection::session::Way;
use crate::redis::content::record::Content;

/// Stands for a send without a key that has been compared with what is pending under its id.
pub(crate) const COMPARED: &str = "-";

/// Length of a key together with the checksum of the content.
const KEYED: usize = 40;

/// Key and checksum of the content, in the form that the script takes; empty without a key. `crc`: checksum of content in
/// chunks.
pub(crate) fn text(key: Option<SendKey>, content: &Content, crc: u32) -> String {
    let Some(key) = key else { return String::new() };
    let crc = match content {
        Content::Whole(bytes) => crc32fast::hash(bytes),
        Content::Chunks { .. } => crc,
    };
    format!("{}{crc:08x}", digits(key))
}

fn digits(SendKey(key): SendKey) -> String {
    format!("{:032x}", u128::from_be_bytes(key))
}

impl RedisStore {
    /// Content that came in chunks has the same bytes as the message that is held: its key, if it has one, names that message,
    /// too.
    pub(crate) async fn same_as(
        &self,
        held: u64,
        (receiver, id): (&PartyId, &MessageId),
        content: &Content,
        send: &str,
    ) -> Result<Sequence> {
        if send.len() != KEYED {
            return Ok(Sequence(held));
        }
        let queued = self.queue_accept((receiver, id), content, &format!("{send}={held}")).await?;
        match self.outcome(queued, None).await? {
            WriteOutcome::Same(sequence) => Ok(Sequence(sequence)),
            other => Err(self.refusal(other, id)),
        }
    }

    /// See [`Engine::accepted_before`](crate::Engine::accepted_before). `crc`: checksum of the content, if it is known.
    pub(crate) async fn known_send(
        &self,
        receiver: &PartyId,
        id: &MessageId,
        (len, crc): (Option<u64>, Option<u32>),
        key: SendKey,
    ) -> Result<Option<Sequence>> {
        let mut get = redis::cmd("HGET");
        get.arg(format!("{}sends", self.inner.prefix)).arg(digits(key));
        let Some(known) = self.inner.ask_plainly::<Option<String>>(Way::Read, &get).await? else {
            return Ok(None);
        };
        let mut words = known.split(' ');
        let (sequence, name) = (words.next(), words.next());
        let (had_len, had_crc) = (words.next(), words.next());
        let field = format!("{}\0{}", receiver.as_str(), id.as_str());
        if name != Some(&sha1_smol::Sha1::from(field).digest().to_string()[..16]) {
            return Err(StoreError::OtherSend { what: "another receiver or message id" });
        }
        let is_other = |had: Option<&str>, is: Option<String>| is.is_some_and(|is| had != Some(&is));
        if is_other(had_len, len.map(|len| len.to_string()))
            || is_other(had_crc, crc.map(|crc| format!("{crc:08x}")))
        {
            return Err(StoreError::OtherSend { what: "other bytes" });
        }
        if self.inner.options.wait_replicas > 0 {
            self.lane.write(WriteRequest::Probe).await?;
        }
        Ok(sequence.and_then(|sequence| sequence.parse().ok()).map(Sequence))
    }
}
