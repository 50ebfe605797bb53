//! Messages that are handed to clients: counted, remembered, and noted in the store; and the warnings about messages that
//! were asked for by their id alone.
//!
//! A reader that names no sender takes what the rule of the store gives it. Two things about that are reported: that an id
//! passes from one sender's message to another's, and that a message had waited for a long time before anybody read it, as
//! messages of an earlier run do. Memory is bounded: only the ids read last are remembered, and only those of plain
//! receives.

use petnet_storage::{FromSender, Handed, Held, PartyId};

use super::Mailbox;

/// A message that nobody has read for longer than this is likely to belong to an earlier run, in seconds.
const LONG: u64 = 3600;

/// What is recorded about a message once it is handed out.
#[derive(Debug, Clone)]
pub(crate) struct HandedMessage {
    pub(crate) message: Handed,
    pub(crate) len: u64,
    unread: bool,
    age: u64,
    plain: bool,
}

impl HandedMessage {
    /// Describes a message that was found for a reader.
    pub(crate) fn new(from: &FromSender, held: &Held) -> Self {
        let plain = *from == FromSender::Any;
        let (len, unread, age) = (held.payload.len(), held.unread, held.age);
        Self { message: held.into(), len, unread, age, plain }
    }
}

/// The name of a sender for a log line.
pub(crate) fn name_of(sender: Option<&PartyId>) -> &str {
    sender.map_or("a sender that did not name itself", PartyId::as_str)
}

impl Mailbox {
    /// Records that a message was handed to a client completely.
    pub(crate) fn handed(&self, handing: &HandedMessage) {
        let HandedMessage { message, len, unread, age, plain } = handing;
        self.engine.note_read(std::slice::from_ref(message));
        let Handed { sender, id, sequence } = message;
        self.record.read(sender.as_ref(), id, *sequence, *len);
        if !plain {
            return;
        }
        if let Some(change) = self.record.plain_reads.note(id, sender.as_ref()) {
            self.record.meters.sender_changed();
            tracing::warn!(
                message_id = %id, before = name_of(change.before.as_ref()), now = name_of(sender.as_ref()),
                "a receive that names no sender was handed another sender's message than the one before under this id; name the sender (petnet-sender, sender_id)"
            );
        }
        if *unread && *age > LONG {
            tracing::warn!(
                message_id = %id, from = name_of(sender.as_ref()), age_seconds = age,
                "a receive that names no sender was handed a message that nobody had read for long; if it is of an earlier run, begin each run with a topic of its own, or release what it left (`petnet mailbox release --prefix`)"
            );
        }
    }
}
