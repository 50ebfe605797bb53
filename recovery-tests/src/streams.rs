//! Clients of `petnet.mailbox.v1` that send and read messages in pieces, also such as no memory holds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use petnet_protos::mailbox::mailbox_client::MailboxClient;
use petnet_protos::mailbox::release_request::Which;
use petnet_protos::mailbox::{ReceiveRequest, ReleaseRequest, SendPiece};
use tonic::Status;
use tonic::transport::Channel;

use crate::clients::endpoint;
use crate::ledger::{Answer, Key, Ledger};
use crate::random::Random;

/// Bytes of a piece that is sent.
pub const PIECE: usize = 256 << 10;
/// In a piece of [`Noise`] every so many bytes begin with its number.
const PAGE: usize = 4 << 10;

/// A client of one gateway. It connects when it needs to, and again after a break.
#[derive(Debug, Clone)]
pub struct Streams {
    calls: MailboxClient<Channel>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Its place in the order of everything that its gateway accepted.
    pub sequence: u64,
    /// Its bytes.
    pub len: u64,
}

impl Streams {
    /// A client of the gateway at an address.
    pub fn of(address: &str) -> Self {
        Self { calls: MailboxClient::new(endpoint(address).connect_lazy()) }
    }

    /// Sends the next attempt of a message in pieces and notes the answer.
    pub async fn send(&mut self, ledger: &Ledger, key: &Key, len: usize) -> Answer {
        let (attempt, payload) = ledger.begin(key, len);
        let pieces =
            (0..len.div_ceil(PIECE)).map(move |n| payload.slice(n * PIECE..len.min((n + 1) * PIECE)));
        let answer = match self.send_pieces(key, stream::iter(pieces), Some(len as u64)).await {
            Ok(_) => Answer::Accepted,
            Err(status) => Answer::Unknown(status.code(), status.message().into()),
        };
        ledger.answered(key, attempt, &answer);
        answer
    }

    /// Sends these pieces as one message; its sequence. Without its length the end of the pieces does not say that it is
    /// whole.
    pub async fn send_pieces(
        &mut self,
        key: &Key,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
        len: Option<u64>,
    ) -> Result<u64, Status> {
        let (message_id, receiver_id) = (key.id.clone(), key.from.other().name().to_owned());
        let first = SendPiece { message_id, receiver_id, len, ..SendPiece::default() };
        let rest = pieces.map(|payload| SendPiece { payload, ..SendPiece::default() });
        let request = stream::once(async { first }).chain(rest);
        self.calls.send_stream(request).await.map(|accepted| accepted.into_inner().sequence)
    }

    /// Says that a message is needed no more.
    pub async fn release(&mut self, key: &Key) -> Result<(), Status> {
        let which = Some(Which::MessageId(key.id.clone()));
        let request = ReleaseRequest { which, sender_id: key.from.name().into(), tag: 0 };
        self.calls.release(request).await.map(drop)
    }

    /// Waits for a message and reads it in pieces, which `take` is handed one after the other.
    pub async fn receive(
        &mut self,
        key: &Key,
        wait: Duration,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Option<Arrived>, Status> {
        let request = ReceiveRequest {
            message_id: key.id.clone(),
            sender_id: key.from.name().into(),
            wait_ms: wait.as_millis() as u32,
        };
        let mut pieces = self.calls.receive_stream(request).await?.into_inner();
        let Some(first) = pieces.message().await? else { return Ok(None) };
        let arrived = Arrived { sequence: first.sequence, len: first.len };
        take(&first.payload);
        let mut len = first.payload.len() as u64;
        while let Some(piece) = pieces.message().await? {
            take(&piece.payload);
            len += piece.payload.len() as u64;
        }
        assert_eq!(len, arrived.len, "as many bytes as were announced");
        Ok(Some(arrived))
    }
}

/// Bytes of any number that need no memory: each piece can be made when it is needed, and no two are the same.
#[derive(Debug, Clone)]
pub struct Noise {
    block: Bytes,
}

impl Noise {
    /// Determined by a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::from_seed(seed);
        let block: Vec<u8> = (0..PIECE / 8).flat_map(|_| random.number().to_be_bytes()).collect();
        Self { block: block.into() }
    }

    /// The piece of this number.
    pub fn piece(&self, number: u64) -> Bytes {
        let mut piece = BytesMut::from(&*self.block);
        for page in piece.chunks_mut(PAGE) {
            page[..8].copy_from_slice(&number.to_be_bytes());
        }
        piece.freeze()
    }

    /// The first so many pieces.
    pub fn pieces(&self, count: u64) -> impl Stream<Item = Bytes> + Send + 'static {
        let noise = self.clone();
        stream::iter((0..count).map(move |number| noise.piece(number)))
    }

    /// Holds what is read against what was sent, from the beginning on; fails at the first byte that differs.
    pub fn check(&self) -> impl FnMut(&[u8]) + Send + 'static {
        let (noise, mut number, mut left) = (self.clone(), 0, self.piece(0));
        move |mut bytes| {
            while !bytes.is_empty() {
                let len = bytes.len().min(left.len());
                let (now, rest) = bytes.split_at(len);
                assert!(
                    now == left.split_to(len),
                    "other bytes than were sent, in piece {number} of 256 KiB"
                );
                bytes = rest;
                if left.is_empty() {
                    number += 1;
                    left = noise.piece(number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_held_against_what_was_sent_wherever_it_is_cut() {
        let noise = Noise::from_seed(7);
        let sent = [noise.piece(0), noise.piece(1), noise.piece(2)].concat();
        let mut check = noise.check();
        for part in sent.chunks(100_001) {
            check(part);
        }
    }

    #[test]
    #[should_panic(expected = "in piece 1 of 256 KiB")]
    fn pieces_that_changed_places_are_noticed() {
        let noise = Noise::from_seed(7);
        let mut check = noise.check();
        check(&noise.piece(0));
        check(&noise.piece(2));
    }
}
