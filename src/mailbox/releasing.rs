//! Which messages are ended by a release that names an id and perhaps no sender.
//!
//! Mail is kept under (sender, id). A client that releases by the id alone is done with what was read under it; a message
//! from another sender, which nobody has read, is not what was meant. So such a release follows the rule of receives: of
//! several messages it ends those that were read; if none of several has been read, it is refused with the names of their
//! senders.

use petnet_storage::{FromSender, MessageId, StoreError};

use super::Mailbox;
use crate::rules::refusal::Refusal;

impl Mailbox {
    /// Ends the message under an id; returns how many there were.
    pub(crate) async fn release(&self, from: &FromSender, id: &MessageId) -> Result<u64, Refusal> {
        let mut meant = vec![from.clone()];
        if *from == FromSender::Any {
            let held = self.engine.held(from, id).await?;
            if held.len() > 1 {
                if held.iter().all(|found| found.unread) {
                    return Err(StoreError::ambiguous(id, held.into_iter().map(|found| found.sender)).into());
                }
                meant =
                    held.into_iter().filter(|found| !found.unread).map(|found| found.sender.into()).collect();
            }
        }
        let mut released = 0;
        for from in meant {
            if self.engine.release(&from, id).await? {
                self.record.released(&from, id);
                released += 1;
            }
        }
        Ok(released)
    }
}
