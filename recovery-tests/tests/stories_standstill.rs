//! Stories of gateways that stand still: SIGSTOP, as `docker pause` and a machine that sleeps do it. Nothing may expire meanwhile,
//! and what was taken over by another gateway must not be done again by the one that wakes up.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use petnet_protos::simple::simple_request_server_server::{SimpleRequestServer, SimpleRequestServerServer};
use petnet_protos::simple::{
    ClientSimpleRecvRequest, ClientSimpleSendRequest, Response as Answered, ServerSimpleSendRequest,
};
use petnet_recovery_tests::fleet::Fleet;
use petnet_recovery_tests::home::{Home, prefix};
use petnet_recovery_tests::ledger::{Answer, Key, Party};
use petnet_recovery_tests::story::{A, B};
use petnet_recovery_tests::{setting, until};
use petnet_redis_servers::Reply;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

/// A lifetime, and a standstill that is longer.
const LIFETIME: &str = "10s";
const STANDSTILL: Duration = Duration::from_secs(15);

/// How many of some messages are there.
async fn there(story: &Fleet, keys: &[Key]) -> usize {
    let mut count = 0;
    for key in keys {
        let mut reader = story.clients(key.from.other())[0].clone();
        let found = reader.receive(key, Duration::ZERO).await.unwrap();
        count += usize::from(found.is_some_and(|found| story.ledger.is_kept(key, &found)));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_while_gateways_stand_still() {
    let mut story = Fleet::new((Home::server(), 1), (Home::Folder, 1));
    story.set("MESSAGE_TTL", LIFETIME);
    story.start().await;
    let key = |n: u64, from: Party| Key { from, id: format!("kept {n}") };
    let keys: Vec<_> = (0..10).flat_map(|n| [key(n, A), key(n, B)]).collect();
    for key in &keys {
        let answer = story.clients(key.from)[0].clone().send(&story.ledger, key, 500).await;
        assert_eq!(answer, Answer::Accepted);
    }
    until("all arrived and were read", async || (there(&story, &keys).await == keys.len()).then_some(()))
        .await;
    for gateway in [&story.a.gateways[0], &story.b.gateways[0]] {
        gateway.halt().await;
    }
    sleep(STANDSTILL).await;
    for gateway in [&story.a.gateways[0], &story.b.gateways[0]] {
        gateway.signal(Signal::CONT);
    }
    for gateway in [&mut story.a.gateways[0], &mut story.b.gateways[0]] {
        gateway.healthy().await;
    }
    assert_eq!(there(&story, &keys).await, keys.len(), "nobody could read while they stood still");
    // Then their time goes on.
    until("they are over", async || (there(&story, &keys).await == 0).then_some(())).await;
    println!("{} messages outlived a standstill of {STANDSTILL:?} with MESSAGE_TTL={LIFETIME}", keys.len());
}

/// A peer that knows PETNet's wire only: the last message under an id is the one that counts.
#[derive(Clone, Default)]
struct OldPeer {
    came: Arc<Mutex<Vec<(String, u8)>>>,
    /// Milliseconds that it takes for the first version of a message.
    slow: Arc<AtomicU64>,
}

impl OldPeer {
    /// Which versions of a message came, in their order.
    fn versions(&self, id: &str) -> Vec<u8> {
        self.came.lock().unwrap().iter().filter(|(came, _)| came == id).map(|(_, version)| *version).collect()
    }

    /// Serves at an address until the token is dropped.
    fn serve(&self, address: &str) -> Token {
        let (held, ended) = watch::channel(false);
        let (service, address) = (SimpleRequestServerServer::new(self.clone()), address.parse().unwrap());
        tokio::spawn(async move {
            // The last one may still have the address for a moment.
            loop {
                let mut ended = ended.clone();
                let over = async move { drop(ended.wait_for(|over| *over).await) };
                let server = tonic::transport::Server::builder().add_service(service.clone());
                if server.serve_with_shutdown(address, over).await.is_ok() {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        Token { _held: held }
    }
}

#[tonic::async_trait]
impl SimpleRequestServer for OldPeer {
    async fn client_simple_send(
        &self,
        _: Request<ClientSimpleSendRequest>,
    ) -> Result<Response<Answered>, Status> {
        Err(Status::unimplemented("a peer"))
    }

    async fn client_simple_recv(
        &self,
        _: Request<ClientSimpleRecvRequest>,
    ) -> Result<Response<Answered>, Status> {
        Err(Status::unimplemented("a peer"))
    }

    async fn server_simple_send(
        &self,
        request: Request<ServerSimpleSendRequest>,
    ) -> Result<Response<Answered>, Status> {
        let ServerSimpleSendRequest { message_id, payload } = request.into_inner();
        let version = payload[0];
        if version == b'1' {
            sleep(Duration::from_millis(self.slow.load(Ordering::SeqCst))).await;
        }
        self.came.lock().unwrap().push((message_id, version));
        Ok(Response::new(Answered { success: true, ..Default::default() }))
    }
}

/// Dropped, it ends the server.
struct Token {
    _held: watch::Sender<bool>,
}

/// Which gateway of A delivers to B, as Redis has it.
async fn who_delivers(story: &Fleet) -> usize {
    let home = story.a.home.clone();
    until("a gateway of A delivers to B", async || {
        let owner = home.ask(&["HGET", &format!("{}leases", prefix(A)), B.name()]);
        let Reply::Bytes(owner) = owner else { return None };
        let gateway =
            home.ask(&["HGET", &format!("{}gateways", prefix(A)), &String::from_utf8(owner).unwrap()]);
        let Reply::Bytes(gateway) = gateway else { return None };
        let gateway = String::from_utf8(gateway).unwrap();
        story.a.gateways.iter().position(|one| gateway.contains(&one.address()))
    })
    .await
}

async fn send(story: &Fleet, via: usize, id: &str, version: u8) {
    let mut sender = story.clients(A)[via].clone();
    sender.send_bytes(id, B.name(), vec![version; 100].into()).await;
}

/// One takes over from one that stands still, and delivers a newer version; then the first goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_sends_an_old_peer_nothing_that_was_replaced_meanwhile() {
    let mut story = Fleet::new((Home::server(), 2), (Home::Folder, 1));
    story.set("RETRY_CAP", "1s");
    for gateway in &mut story.a.gateways {
        gateway.spawn();
    }
    for gateway in &mut story.a.gateways {
        gateway.healthy().await;
    }
    let (peer, address) = (OldPeer::default(), story.b.gateways[0].address());
    let mut serving = Some(peer.serve(&address));
    send(&story, 0, "warm", b'2').await;
    until("it takes messages", async || (peer.versions("warm") == b"2").then_some(())).await;
    for round in 0..setting("PETNET_STANDSTILLS", 2) {
        for in_a_call in [false, true] {
            let (id, owner) = (format!("m{round}{in_a_call}"), who_delivers(&story).await);
            if in_a_call {
                // The call is at the peer when its sender stops, and is carried out there.
                peer.slow.store(1000, Ordering::SeqCst);
            } else {
                // It is about to be tried, again and again.
                drop(serving.take());
            }
            send(&story, owner, &id, b'1').await;
            sleep(story.random.moment(Duration::from_millis(500))).await;
            story.a.gateways[owner].halt().await;
            if in_a_call {
                until("the first came", async || peer.versions(&id).contains(&b'1').then_some(())).await;
                peer.slow.store(0, Ordering::SeqCst);
            } else {
                serving = Some(peer.serve(&address));
            }
            until("another one takes over", async || (who_delivers(&story).await != owner).then_some(()))
                .await;
            send(&story, 1 - owner, &id, b'2').await;
            until("the newer came", async || peer.versions(&id).contains(&b'2').then_some(())).await;
            story.a.gateways[owner].signal(Signal::CONT);
            // What it had in its hands it would send at once.
            story.a.gateways[owner].healthy().await;
            let after = format!("after {id}");
            send(&story, owner, &after, b'2').await;
            until("it works again", async || peer.versions(&after).contains(&b'2').then_some(())).await;
            sleep(Duration::from_secs(3)).await;
            let versions = peer.versions(&id);
            println!("{id}: {}", String::from_utf8_lossy(&versions));
            assert_eq!(versions.last(), Some(&b'2'), "an old one came over a new one");
        }
    }
    drop(serving);
}
