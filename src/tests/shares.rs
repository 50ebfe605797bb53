//! What one caller holds counts against its own share: a hostile caller is at its bound, and a well-behaved one beside it
//! is served.

use std::collections::BTreeSet;
use std::path::Path;

use tempfile::TempDir;

use super::hostile::{HandmadeLink, channel, offer};
use super::raw::{RawConnection, prefixed, zeros};
use super::tls::{CallerProof, Member, call, open, tls_settings};
use super::*;
use crate::proto::simple::ServerSimpleSendRequest;
use crate::testing::until;
use crate::tls::client_auth::TlsClientAuth;

/// Gateway `a` with TLS, and the parties `b`, which behaves well, and `c`, which does not.
struct ThreeParties {
    members: [Member; 3],
    folder: TempDir,
    a: RunningGateway,
}

impl ThreeParties {
    async fn new(auth: TlsClientAuth) -> Self {
        let members = ["a", "b", "c"].map(Member::new);
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { call_bytes: 64 << 20, ..Limits::default() };
        let pair = members[0].gateway();
        let party_file = folder.path().join("party.json");
        write_parties(&party_file, &members);
        let settings =
            Settings { limits, party_file, max_uploads: 16, ..tls_settings("a", folder.path(), &pair, auth) };
        let a = RunningGateway::start(settings, parties_of(&members)).await;
        Self { members, folder, a }
    }

    fn addr(&self) -> SocketAddr {
        self.a.addr
    }

    async fn channel(&self, of: usize) -> Channel {
        let member = &self.members[of];
        let pair = if of == 0 { member.program() } else { member.gateway() };
        call(self.addr(), &self.members[0], CallerProof::Certificate(&pair)).await.unwrap()
    }

    async fn raw(&self, shows: CallerProof<'_>) -> RawConnection {
        let mut raw = RawConnection::over(open(self.addr(), &self.members[0], shows).await).await;
        raw.agree().await;
        raw
    }

    /// Checks that programs of `a` and the gateway of `b` are served, with messages of every size.
    async fn serves_the_others(&self, round: &str) {
        let client = TestClient(SimpleRequestServerClient::new(self.channel(0).await));
        let mut peer = SimpleRequestServerClient::new(self.channel(1).await);
        for len in [10, 50_000, 100_000, 1 << 20, MAX_MESSAGE] {
            let id = format!("{round}-{len}");
            assert!(client.send("b", &id, zeros(len)).await.unwrap().success, "{id}");
            let request = ServerSimpleSendRequest { message_id: id.clone(), payload: zeros(len) };
            let answer = tokio::time::timeout(LIMIT, peer.server_simple_send(request)).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer to a delivery: {id}")).unwrap();
            assert!(answer.into_inner().success, "{id}");
        }
    }
}

fn parties_of(members: &[Member]) -> Parties {
    Parties { parties: members.iter().map(|member| member.entry("localhost:1", &["*"])).collect() }
}

fn write_parties(path: &Path, members: &[Member]) {
    let entry = |member: &Member| {
        let connection = serde_json::json!({"url": "localhost:1", "certificates": member.roots()});
        (member.name.to_owned(), serde_json::json!({ "petnet": [connection] }))
    };
    let all: serde_json::Map<_, _> = members.iter().map(entry).collect();
    std::fs::write(path, serde_json::to_string(&all).unwrap()).unwrap();
}

/// A delivery of the largest size.
fn largest() -> Vec<u8> {
    prefixed(&ServerSimpleSendRequest { message_id: "h".into(), payload: zeros(MAX_MESSAGE) })
}

/// The attack of the public reports: a few bytes each of many messages that are announced as of the largest size.
#[tokio::test]
async fn messages_that_are_announced_and_do_not_come_hold_nothing() {
    for auth in [TlsClientAuth::Required, TlsClientAuth::Optional] {
        let three = ThreeParties::new(auth).await;
        let pair = three.members[2].gateway();
        let shows = if auth == TlsClientAuth::Required {
            CallerProof::Certificate(&pair)
        } else {
            CallerProof::Nothing
        };
        let mut hostile = three.raw(shows).await;
        for n in 0..200 {
            hostile.call(2 * n + 1, "ServerSimpleSend").await;
            hostile.data(2 * n + 1, &largest()[..60], false).await;
        }
        until("its calls run", async || three.a.gateway.calls() == 200).await;
        three.serves_the_others("announced").await;
        until("it holds them all the while", async || three.a.gateway.calls() == 200).await;
        drop(hostile);
        until("its calls are over", async || three.a.gateway.calls() == 0).await;
        assert!(three.a.gateway.shares().is_empty(), "and what it had is free");
        three.a.shutdown().await;
    }
}

/// A caller that does send, up to its bound: a peer, or any caller without a certificate.
#[tokio::test]
async fn a_caller_with_all_the_memory_that_it_may_have_leaves_the_rest_to_others() {
    for auth in [TlsClientAuth::Required, TlsClientAuth::Optional] {
        let three = ThreeParties::new(auth).await;
        let pair = three.members[2].gateway();
        let shows = if auth == TlsClientAuth::Required {
            CallerProof::Certificate(&pair)
        } else {
            CallerProof::Nothing
        };
        let message = largest();
        let mut hostile = Vec::new();
        // The windows of a connection are 16 MiB.
        for _ in 0..4 {
            let mut raw = three.raw(shows).await;
            for n in 0..4 {
                raw.call(2 * n + 1, "ServerSimpleSend").await;
                raw.data(2 * n + 1, &message[..message.len() - 1000], false).await;
            }
            hostile.push(raw);
        }
        let is_full = || three.a.gateway.shares().iter().any(|(used, most)| used + (1 << 20) >= *most);
        until("it has what it may have", async || is_full()).await;
        three.serves_the_others("full").await;
        assert!(is_full(), "it holds that all the while");
        drop(hostile);
        until("what it had is free", async || three.a.gateway.shares().is_empty()).await;
        three.a.shutdown().await;
    }
}

/// The tags of the messages that may come, once there are `count` of them.
pub(super) async fn begun(link: &mut HandmadeLink, count: usize) -> BTreeSet<u64> {
    let mut begun = BTreeSet::new();
    while begun.len() < count {
        begun.extend(link.next().await.progress.iter().map(|progress| progress.tag));
    }
    begun
}

#[tokio::test]
async fn a_peer_that_begins_large_messages_and_leaves_takes_no_seats_of_others() {
    let entries = parties(&[("a", &[String::new()]), ("b", &["b:1".into()]), ("c", &["c:1".into()])]);
    let a = RunningGateway::start(Settings { max_uploads: 16, ..settings("a") }, entries).await;
    let mut hostile = HandmadeLink::open(channel(a.addr).await, "c").await;
    hostile.offer((0..128).map(|n| offer(n, n + 1, 10 << 20)).collect()).await;
    assert_eq!(begun(&mut hostile, 4).await.len(), 4, "its share of the seats");
    until("all of them are under way", async || a.gateway.partials().len() == 128).await;
    let deliver = async |tag: u64| {
        let mut good = HandmadeLink::open(channel(a.addr).await, "b").await;
        good.offer(vec![offer(0, tag, 3)]).await;
        assert_eq!(good.begins(0).await, Ok(0));
        good.part(0, 0, Bytes::from_static(b"abc")).await;
        while good.next().await.answered_below == 0 {}
    };
    deliver(1).await;
    drop(hostile);
    until("nothing of it is left", async || a.gateway.partials().len() == 0).await;
    deliver(2).await;
    // What it has sent a part of is kept for it, within its share.
    let mut hostile = HandmadeLink::open(channel(a.addr).await, "c").await;
    hostile.offer((0..8).map(|n| offer(n, n + 1000, 10 << 20)).collect()).await;
    let mut missing = begun(&mut hostile, 4).await;
    for tag in &missing {
        hostile.part(*tag, 0, Bytes::from_static(b"abc")).await;
    }
    while !missing.is_empty() {
        for progress in hostile.next().await.progress {
            assert_eq!(progress.bytes, 3, "and nobody else has begun");
            missing.remove(&progress.tag);
        }
    }
    drop(hostile);
    until("four are kept", async || a.gateway.partials().len() == 4).await;
    deliver(3).await;
    a.shutdown().await;
}

#[tokio::test]
async fn a_party_that_leaves_the_party_file_holds_nothing_from_then_on() {
    let three = ThreeParties::new(TlsClientAuth::Required).await;
    let a = &three.a.gateway;
    let mut kept = HandmadeLink::open(three.channel(2).await, "c").await;
    kept.offer(vec![offer(0, 1, 10)]).await;
    assert_eq!(kept.begins(0).await, Ok(0));
    kept.part(0, 0, Bytes::from_static(b"abc")).await;
    until("the part is here", async || kept.next().await.progress.iter().any(|p| p.bytes == 3)).await;
    drop(kept);
    until("it is kept", async || a.calls() == 0 && a.partials().len() == 1).await;
    let mut open = HandmadeLink::open(three.channel(2).await, "c").await;
    open.offer(vec![offer(0, 2, 10)]).await;
    assert_eq!(open.begins(0).await, Ok(0));
    let pair = three.members[2].gateway();
    let mut raw = three.raw(CallerProof::Certificate(&pair)).await;
    raw.call(1, "ServerSimpleSend").await;
    raw.data(1, &largest()[..500_000], false).await;
    until("its call runs", async || a.calls() == 2).await;

    write_parties(&three.folder.path().join("party.json"), &three.members[..2]);
    a.reload_and_wait().await;
    until("its calls are over", async || a.calls() == 0).await;
    until("nothing is kept of it", async || a.partials().len() == 0 && a.shares().is_empty()).await;
    assert!(raw.is_closed_within(LIMIT).await);
    three.serves_the_others("left").await;
    three.a.shutdown().await;
}
