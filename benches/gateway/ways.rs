//! The ways to send and receive that are compared, and a client that speaks those that move one message per call.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;

use crate::clients::{self, Client, PARTIES};
use crate::mailbox::{self, Mailbox};

/// A way from a client to the other party's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `petnet.simple.v1` over two relays.
    Floor,
    /// `petnet.simple.v1`.
    Simple,
    /// Send and Receive of `petnet.mailbox.v1`.
    Mailbox,
    /// Exchange of `petnet.mailbox.v1`.
    Exchange,
    /// `SendStream` and `ReceiveStream` of `petnet.mailbox.v1`.
    Stream,
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::Floor, Self::Simple, Self::Mailbox, Self::Exchange, Self::Stream];

    /// What it is called in `--ways`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Simple => "simple",
            Self::Mailbox => "mailbox",
            Self::Exchange => "exchange",
            Self::Stream => "stream",
        }
    }

    /// The ways of a comma-separated list.
    pub(crate) fn list(names: &str) -> Result<Vec<Self>> {
        let one = |name: &str| match Self::ALL.into_iter().find(|way| way.name() == name) {
            Some(way) => Ok(way),
            None => bail!("there is no way {name:?}; the ways are {}", names_of(&Self::ALL)),
        };
        names.split(',').map(one).collect()
    }

    /// A client of a way that moves one message per call.
    pub(crate) fn client(self, address: SocketAddr) -> Unary {
        match self {
            Self::Floor | Self::Simple => Unary::Simple(clients::client(address)),
            Self::Mailbox => Unary::Mailbox(mailbox::mailbox(address)),
            Self::Exchange | Self::Stream => unreachable!("{self} does not move a message per call"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => "relay floor (simple)",
            Self::Simple => "simple",
            Self::Mailbox => "Mailbox",
            Self::Exchange => "Exchange",
            Self::Stream => "SendStream",
        })
    }
}

/// Names as `--ways` takes them.
pub(crate) fn names_of(ways: &[Way]) -> String {
    ways.iter().map(|way| way.name()).collect::<Vec<_>>().join(",")
}

/// The two ends that a load goes between.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Where the gateways or relays listen.
    pub(crate) addresses: [SocketAddr; 2],
    /// Whose they are.
    pub(crate) parties: [String; 2],
}

impl Ends {
    /// The ends of a pair that this benchmark started.
    pub(crate) fn of(addresses: [SocketAddr; 2]) -> Self {
        Self { addresses, parties: PARTIES.map(str::to_owned) }
    }
}

/// A client of a way that moves one message per call.
#[derive(Debug, Clone)]
pub(crate) enum Unary {
    Simple(Client),
    Mailbox(Mailbox),
}

impl Unary {
    /// Sends a message; returns when it is accepted.
    pub(crate) async fn send(&mut self, to: &str, id: String, payload: Bytes) -> Result<()> {
        match self {
            Self::Simple(client) => clients::try_send(client, to, id, payload).await,
            Self::Mailbox(client) => mailbox::send(client, to, id, payload).await,
        }
    }

    /// Waits for a message, which must be of this length.
    pub(crate) async fn receive(&mut self, id: &str, len: usize) -> Result<()> {
        let came = match self {
            Self::Simple(client) => clients::try_receive(client, id).await?.len(),
            Self::Mailbox(client) => mailbox::receive(client, id).await? as usize,
        };
        ensure!(came == len, "{id} had {len} bytes when it was sent, and {came} came");
        Ok(())
    }
}
