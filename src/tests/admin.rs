//! The operator's socket: what it shows, and what it does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tonic::Code;

use super::*;
use crate::proto::admin::payload_request::Which;
use crate::proto::admin::release_mailbox_request::Which as Release;
use crate::proto::admin::{
    DeadRequest, DropPendingRequest, Life, ListDeadRequest, ListMailboxRequest, ListPendingRequest,
    PauseRequest, PayloadRequest, ReleaseMailboxRequest, RetryPendingRequest, StatusRequest, StatusResponse,
    TrackRequest,
};
use crate::wire::admin_socket::{AdminSocketClient as Admin, NAME, connect};

fn on(folder: &Path) -> Settings {
    Settings { data_dir: folder.into(), ..settings("a") }
}

async fn status(admin: &mut Admin) -> StatusResponse {
    admin.status(StatusRequest {}).await.unwrap().into_inner()
}

async fn track(admin: &mut Admin, id: &str) -> Vec<Life> {
    let request = TrackRequest { message_id: id.into(), party: String::new() };
    admin.track(request).await.unwrap().into_inner().lives
}

fn whats(life: &Life) -> Vec<&str> {
    life.events.iter().map(|event| event.what.as_str()).collect()
}

/// Looks again and again until there is a result.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_goes_with_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    // A socket file as a killed gateway leaves it.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join(NAME)).unwrap());
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mode = std::fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(status(&mut connect(folder.path()).await.unwrap()).await.party, "a");
    // Another gateway on the same folder (which is possible with Redis) leaves the socket alone, and works.
    let other = RunningGateway::alone_with(on(folder.path())).await;
    assert_eq!(
        status(&mut connect(folder.path()).await.unwrap()).await.listen_addr,
        a.addr.to_string(),
        "still the first one"
    );
    a.shutdown().await;
    assert!(!folder.path().join(NAME).exists());
    other.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_hangs_on_the_socket_does_not_hold_the_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let silent: Vec<_> =
        (0..12).map(|_| std::os::unix::net::UnixStream::connect(folder.path().join(NAME)).unwrap()).collect();
    a.shutdown().await;
    drop(silent);
}

#[tokio::test]
async fn a_peer_that_is_down_is_shown_with_its_reason_and_what_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mut admin = connect(folder.path()).await.unwrap();
    let before = status(&mut admin).await;
    assert_eq!((before.state.as_str(), before.peers[0].state.as_str()), ("serving", "idle"));
    assert!(before.process.unwrap().resident_bytes > 0);
    let client = a.client().await;
    for n in 0..3 {
        assert!(client.send("b", &format!("m{n}"), "12345").await.unwrap().success);
    }
    let peer = until("it is down", async || {
        let peer = status(&mut admin).await.peers.remove(0);
        (peer.state == "down").then_some(peer)
    })
    .await;
    assert_eq!((peer.party.as_str(), peer.pending, peer.pending_bytes), ("b", 3, 15));
    assert!(peer.last_error.contains("refused") && peer.down_seconds.is_some(), "{peer:?}");
    assert_eq!(peer.urls.len(), 1);
    let list = ListPendingRequest { prefix: "m".into(), ..Default::default() };
    let listed = admin.list_pending(list).await.unwrap().into_inner();
    let ids: Vec<_> =
        listed.messages.iter().map(|m| (m.peer.as_str(), m.message_id.as_str(), m.len)).collect();
    assert_eq!(ids, [("b", "m0", 5), ("b", "m1", 5), ("b", "m2", 5)]);
    assert_eq!(listed.next, None);
    let attempt = until("an attempt is remembered", async || {
        let lives = track(&mut admin, "m0").await;
        assert_eq!((lives.len(), lives[0].state.as_str()), (1, "pending"));
        lives[0].events.iter().find(|event| event.what == "attempt").cloned().or_else(|| {
            // Any of the three may have been the probe.
            (lives[0].events.len() == 2).then(|| lives[0].events[1].clone())
        })
    })
    .await;
    assert!(!attempt.detail.is_empty());
    a.shutdown().await;
}

/// The peer used to stay "down" for ever, and "retry" only said that it was tried.
#[tokio::test]
async fn a_peer_that_is_back_is_idle_though_nothing_waits_for_it_and_a_retry_tells_whether_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let b_addr = free_address();
    let to_b = parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let a = RunningGateway::start(on(folder.path()), to_b).await;
    let mut admin = connect(folder.path()).await.unwrap();
    assert!(a.client().await.send("b", "m", "x").await.unwrap().success);
    until("it is down", async || (status(&mut admin).await.peers[0].state == "down").then_some(())).await;
    let all = DropPendingRequest { peer: "b".into(), all: true, ..Default::default() };
    assert_eq!(admin.drop_pending(all).await.unwrap().into_inner().messages, 1);
    let retry = || RetryPendingRequest { peer: "b".into() };
    let said = admin.retry_pending(retry()).await.unwrap().into_inner();
    assert!(said.text.starts_with("b does not take messages: ") && said.text.contains("refused"), "{said:?}");
    assert_eq!(said.failed, 1);
    assert_eq!(status(&mut admin).await.peers[0].state, "down");

    let to_a = parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])]);
    let b = RunningGateway::start(Settings { listen_addr: b_addr, ..settings("b") }, to_a).await;
    let peer = until("it is idle by itself", async || {
        let peer = status(&mut admin).await.peers.remove(0);
        (peer.state == "idle").then_some(peer)
    })
    .await;
    assert!(peer.last_error.is_empty() && peer.down_seconds.is_none(), "{peer:?}");
    let said = admin.retry_pending(retry()).await.unwrap().into_inner();
    assert_eq!((said.text.as_str(), said.failed), ("b answers; nothing is pending for it", 0));
    b.shutdown().await;
    let text = admin.retry_pending(RetryPendingRequest::default()).await.unwrap().into_inner().text;
    assert!(text.starts_with("b does not take messages: "), "{text}");
    a.shutdown().await;
}

#[tokio::test]
async fn the_life_of_a_delivered_and_read_message_is_remembered_on_both_sides() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let b_addr = free_address();
    let to_b = parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let a = RunningGateway::start(on(folders[0].path()), to_b).await;
    let of_b = Settings { listen_addr: b_addr, data_dir: folders[1].path().into(), ..settings("b") };
    let to_a = parties(&[("a", &[a.addr.to_string()]), ("b", &[String::new()])]);
    let b = RunningGateway::start(of_b, to_a).await;
    a.client().await.send("b", "m", "hello").await.unwrap();
    let reader = b.client().await;
    for _ in 0..2 {
        assert_eq!(reader.receive("m").await.unwrap(), "hello");
    }
    let mut at_b = connect(folders[1].path()).await.unwrap();
    let lives = track(&mut at_b, "m").await;
    assert_eq!((lives.len(), lives[0].direction.as_str(), lives[0].party.as_str()), (1, "received", "a"));
    assert_eq!(whats(&lives[0]), ["arrived", "read", "read"]);
    let mut at_a = connect(folders[0].path()).await.unwrap();
    let life = until("it is delivered", async || {
        let life = track(&mut at_a, "m").await.remove(0);
        whats(&life).contains(&"delivered").then_some(life)
    })
    .await;
    assert_eq!(whats(&life), ["taken", "synced", "delivered"]);
    assert!(life.events.is_sorted_by_key(|event| event.at_ms));
    let peers = status(&mut at_a).await.peers;
    assert_eq!((peers[0].delivered, peers[0].delivered_bytes, peers[0].pending), (1, 5, 0));
    assert_eq!(status(&mut at_b).await.peers[0].received, 1);
    let released = at_b
        .release_mailbox(ReleaseMailboxRequest {
            which: Some(Release::MessageId("m".into())),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(released.into_inner().messages, 1);
    let again = ReleaseMailboxRequest { which: Some(Release::MessageId("m".into())), ..Default::default() };
    assert_eq!(at_b.release_mailbox(again).await.unwrap_err().code(), Code::NotFound);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_pause_holds_over_a_restart_until_it_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let b_addr = free_address();
    let to_b = || parties(&[("a", &[String::new()]), ("b", &[b_addr.to_string()])]);
    let b = start_b(b_addr, free_address()).await;
    let a = RunningGateway::start(on(folder.path()), to_b()).await;
    let mut admin = connect(folder.path()).await.unwrap();
    let pause = PauseRequest { peer: "b".into() };
    let said = admin.pause(pause.clone()).await.unwrap().into_inner().text;
    assert!(said.contains("b is paused"), "{said}");
    assert_eq!(admin.pause(PauseRequest { peer: "z".into() }).await.unwrap_err().code(), Code::NotFound);
    a.shutdown().await;
    let a = RunningGateway::start(on(folder.path()), to_b()).await;
    a.client().await.send("b", "m", "x").await.unwrap();
    let mut admin = connect(folder.path()).await.unwrap();
    let retry = RetryPendingRequest { peer: "b".into() };
    let said = admin.retry_pending(retry).await.unwrap().into_inner();
    assert!(said.messages == 1 && said.text.contains("PAUSED") && said.failed == 1, "{said:?}");
    assert_eq!(status(&mut admin).await.peers[0].state, "paused");
    assert_eq!(b.client().await.receive_with("m", &[], None).await.unwrap().payload, None);
    admin.resume(pause).await.unwrap();
    assert_eq!(b.client().await.receive("m").await.unwrap(), "x");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn what_the_operator_drops_is_never_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mut admin = connect(folder.path()).await.unwrap();
    let client = a.client().await;
    for n in 0..5 {
        client.send("b", &format!("m{n}"), "x").await.unwrap();
    }
    let all =
        admin.list_pending(ListPendingRequest { limit: 3, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((all.messages.len(), all.next), (3, Some(all.messages[2].sequence)));
    let drop_these = |sequences: Vec<u64>, ids: &[&str], all| DropPendingRequest {
        peer: "b".into(),
        sequences,
        message_ids: ids.iter().map(ToString::to_string).collect(),
        all,
    };
    let neither = admin.drop_pending(drop_these(vec![], &[], false)).await.unwrap_err();
    assert_eq!(neither.code(), Code::InvalidArgument);
    let one = drop_these(vec![all.messages[0].sequence, 999_999], &["m1", "nothing"], false);
    assert_eq!(admin.drop_pending(one).await.unwrap().into_inner().messages, 2);
    assert_eq!(track(&mut admin, "m0").await[0].events.last().unwrap().what, "dropped");
    assert_eq!(admin.drop_pending(drop_these(vec![], &[], true)).await.unwrap().into_inner().messages, 3);
    assert_eq!(a.engine.pending_count(), 0);
    a.shutdown().await;
}

#[tokio::test]
async fn dead_letters_are_shown_read_retried_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mut admin = connect(folder.path()).await.unwrap();
    let client = a.client().await;
    let b = party("b");
    for (id, len) in [("first", 3), ("second", 3 << 20)] {
        client.send("b", id, vec![7; len]).await.unwrap();
        let pending = a.engine.pending(&b, petnet_storage::Sequence(0), 1).await.unwrap()[0];
        let refused = petnet_storage::DeadReason::Refused("no such id here".into());
        let dead = petnet_storage::Outcome::Dead(refused);
        assert!(a.engine.settle(&b, pending.sequence, dead).await.unwrap());
    }
    let letters = admin.list_dead(ListDeadRequest::default()).await.unwrap().into_inner().letters;
    assert_eq!((letters[0].reason.as_str(), letters[1].len), ("refused", 3 << 20));
    assert!(letters[0].reason_text.contains("no such id here"));
    let request = PayloadRequest { which: Some(Which::Dead(letters[1].sequence)), party: String::new() };
    let mut stream = admin.payload(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!((first.message_id.as_str(), first.party.as_str(), first.len), ("second", "b", 3 << 20));
    let mut bytes = 0;
    while let Some(piece) = stream.message().await.unwrap() {
        assert!(piece.payload.len() <= 1 << 20);
        bytes += piece.payload.len();
    }
    assert_eq!(bytes, 3 << 20);
    let these = |sequences: Vec<u64>, all| DeadRequest { sequences, all, peer: String::new() };
    let unknown = admin.drop_dead(these(vec![999_999], false)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let retried = admin.retry_dead(these(vec![letters[0].sequence], false)).await.unwrap().into_inner();
    assert_eq!((retried.messages, a.engine.pending_count()), (1, 1));
    assert_eq!(status(&mut admin).await.dead_letters[0].messages, 1);
    assert_eq!(admin.drop_dead(these(vec![], true)).await.unwrap().into_inner().messages, 1);
    assert!(status(&mut admin).await.dead_letters.is_empty());
    a.shutdown().await;
}

#[tokio::test]
async fn retrying_all_dead_letters_replaces_no_newer_message() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mut admin = connect(folder.path()).await.unwrap();
    let client = a.client().await;
    let b = party("b");
    // There are two letters under "twice", of which the newer one is to win; "sent again" is pending again.
    for (id, text) in [("twice", "1"), ("twice", "2"), ("sent again", "old")] {
        client.send("b", id, text).await.unwrap();
        let pending = a.engine.pending(&b, petnet_storage::Sequence(0), 1).await.unwrap()[0];
        let refused = petnet_storage::DeadReason::Refused("no".into());
        a.engine.settle(&b, pending.sequence, petnet_storage::Outcome::Dead(refused)).await.unwrap();
    }
    client.send("b", "sent again", "new").await.unwrap();
    let all = DeadRequest { sequences: Vec::new(), all: true, peer: String::new() };
    let said = admin.retry_dead(all).await.unwrap().into_inner();
    assert!(said.messages == 2 && said.text.contains("1 left") && said.failed == 1, "{said:?}");
    let mut pending = Vec::new();
    for one in a.engine.pending(&b, petnet_storage::Sequence(0), 10).await.unwrap() {
        let message = a.engine.load(&b, one.sequence).await.unwrap().unwrap();
        pending.push((message.id.to_string(), message.payload.whole().await.unwrap()));
    }
    assert_eq!(pending, [("sent again".to_owned(), "new".into()), ("twice".to_owned(), "2".into())]);
    // If it is named, it is accepted again all the same.
    let left = a.engine.letters();
    assert_eq!((left.len(), left[0].id.as_str()), (1, "sent again"));
    let named = DeadRequest { sequences: vec![left[0].sequence.0], all: false, peer: String::new() };
    assert_eq!(admin.retry_dead(named).await.unwrap().into_inner().messages, 1);
    a.shutdown().await;
}

#[tokio::test]
async fn the_mailbox_is_listed_by_sender_and_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let mut admin = connect(folder.path()).await.unwrap();
    for n in 0..4 {
        let arrival = petnet_storage::Arrival {
            sender: Some(party("b")),
            id: crate::testing::message_id(&format!("{}{n}", if n < 2 { "x:" } else { "y:" })),
            payload: Bytes::from_static(b"1"),
            identity: None,
        };
        a.engine.store(arrival).await.unwrap();
    }
    let list = ListMailboxRequest { prefix: "y:".into(), sender: "b".into(), ..Default::default() };
    let found = admin.list_mailbox(list).await.unwrap().into_inner().messages;
    assert_eq!(found.iter().map(|m| m.message_id.as_str()).collect::<Vec<_>>(), ["y:2", "y:3"]);
    // Of several messages under one id, the number selects exactly one.
    let same = |sender: Option<&str>, text: &'static str| petnet_storage::Arrival {
        sender: sender.map(party),
        id: crate::testing::message_id("same"),
        payload: Bytes::from_static(text.as_bytes()),
        identity: None,
    };
    for (sender, text) in [(None, "unnamed"), (Some("b"), "of b"), (Some("c"), "of c")] {
        a.engine.store(same(sender, text)).await.unwrap();
    }
    let list = ListMailboxRequest { prefix: "same".into(), ..Default::default() };
    let found = admin.list_mailbox(list).await.unwrap().into_inner().messages;
    assert_eq!(found.len(), 3);
    for (held, text) in found.iter().zip(["unnamed", "of b", "of c"]) {
        let request = PayloadRequest { which: Some(Which::Held(held.sequence)), party: String::new() };
        let mut stream = admin.payload(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().party, held.sender);
        assert_eq!(stream.message().await.unwrap().unwrap().payload, text);
    }
    let none = PayloadRequest { which: Some(Which::MessageId("z".into())), party: String::new() };
    assert_eq!(admin.payload(none).await.unwrap_err().code(), Code::NotFound);
    a.shutdown().await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_the_operator_out() {
    let folder = tempfile::tempdir().unwrap();
    let a = RunningGateway::alone_with(on(folder.path())).await;
    let connect_silently = || tokio::net::UnixStream::connect(folder.path().join(NAME));
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(connect_silently().await.unwrap());
    }
    let asked = async { status(&mut connect(folder.path()).await.unwrap()).await };
    assert_eq!(tokio::time::timeout(LIMIT, asked).await.expect("the operator is answered").party, "a");
    drop(silent);
    a.shutdown().await;
}
