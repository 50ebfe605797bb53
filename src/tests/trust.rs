//! Gateways that prove to each other who they are, and what happens when one cannot, or no longer can.

use std::path::Path;

use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::tls::{CallerProof, Member, call, tls_settings, write_pair};
use super::*;
use crate::delivery::peer_link::{Deliver, Fence, LinkLimits, PeerLink, Verdict};
use crate::testing::until;
use crate::tls::OwnCertificate;
use crate::tls::certs::make::CertificateAndKey;
use crate::tls::client_auth::TlsClientAuth;

/// Two parties on one machine with TLS; each gateway has a folder with its certificate and its own copy of the party file.
struct TwoParties {
    a: Member,
    b: Member,
    addresses: [SocketAddr; 2],
    folders: [TempDir; 2],
}

impl TwoParties {
    fn new() -> Self {
        Self {
            a: Member::new("a"),
            b: Member::new("b"),
            addresses: [free_address(), free_address()],
            folders: [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()],
        }
    }

    fn folder(&self, n: usize) -> &Path {
        self.folders[n].path()
    }

    fn parties(&self) -> Parties {
        let [a, b] = self.addresses.map(|address| address.to_string());
        Parties { parties: [self.a.entry(&a, &["*"]), self.b.entry(&b, &["*"])].into() }
    }

    /// Writes the party file of gateway `n`.
    fn write_parties(&self, n: usize, parties: &Parties) {
        let entry = |connections: &Vec<Connection>| {
            let one = |c: &Connection| serde_json::json!({"url": c.url, "certificates": c.certificates});
            serde_json::json!({ "petnet": connections.iter().map(one).collect::<Vec<_>>() })
        };
        let all: serde_json::Map<_, _> =
            parties.parties.iter().map(|(party, c)| (party.as_str().to_owned(), entry(c))).collect();
        std::fs::write(self.folder(n).join("party.json"), serde_json::to_string(&all).unwrap()).unwrap();
    }

    async fn start(&self, n: usize, pair: &CertificateAndKey) -> RunningGateway {
        self.write_parties(n, &self.parties());
        let folder = self.folder(n);
        let name = [self.a.name, self.b.name][n];
        let settings = Settings {
            party_file: folder.join("party.json"),
            listen_addr: self.addresses[n],
            ..tls_settings(name, folder, pair, TlsClientAuth::Required)
        };
        RunningGateway::start(settings, self.parties()).await
    }

    /// A program of the party of gateway `n`.
    async fn client(&self, n: usize) -> TestClient {
        let member = [&self.a, &self.b][n];
        let channel =
            call(self.addresses[n], member, CallerProof::Certificate(&member.program())).await.unwrap();
        TestClient(SimpleRequestServerClient::new(channel))
    }
}

#[tokio::test]
async fn two_gateways_deliver_to_each_other_as_themselves() {
    let two = TwoParties::new();
    let (a, b) = (two.start(0, &two.a.gateway()).await, two.start(1, &two.b.gateway()).await);
    let (at_a, at_b) = (two.client(0).await, two.client(1).await);
    let large = Bytes::from(vec![7; 1 << 20]);
    assert!(at_a.send("b", "there", large.clone()).await.unwrap().success);
    assert_eq!(at_b.receive("there").await, Some(large));
    assert!(at_b.send("a", "back", "small").await.unwrap().success);
    assert_eq!(at_a.receive("back").await, Some("small".into()));
    let from = |sender| [("petnet-sender", sender), ("petnet-wait-ms", "0")];
    assert!(at_b.receive_with("there", &from("a"), None).await.unwrap().payload.is_some());
    assert!(at_b.receive_with("there", &from("b"), None).await.unwrap().payload.is_none());
    a.shutdown().await;
    b.shutdown().await;
}

/// One attempt of `a` to deliver to the gateway that listens at `url` as b.
async fn attempt(two: &TwoParties, url: &str, pair: &CertificateAndKey) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path(), pair);
    let own = OwnCertificate::load(folder.path()).unwrap();
    let settings = Settings { own_certificate: own, ..settings("a") };
    let parties = Parties { parties: [two.a.entry("a:1", &["*"]), two.b.entry(url, &["*"])].into() };
    let trust = Arc::new(settings.trust(parties, 0).unwrap());
    let (_sender, trust) = tokio::sync::watch::channel(trust);
    let limits = LinkLimits { stall: Duration::from_secs(5), window: 1 << 20, call_bytes: 1 << 20 };
    let link = PeerLink::new(Fence::open(party("b")), trust, limits, TaskTracker::new());
    let message = petnet_storage::Outgoing {
        sequence: petnet_storage::Sequence(1),
        receiver: party("b"),
        id: crate::testing::message_id("m"),
        payload: Bytes::from_static(b"x").into(),
        identity: petnet_storage::DeliveryIdentity {
            incarnation: Incarnation { started_ms: 1, random: 1 },
            number: 1,
            low_water: 1,
        },
    };
    tokio::time::timeout(LIMIT, link.deliver(&message, false)).await.unwrap()
}

#[track_caller]
fn assert_waits(verdict: &Verdict, part: &str) {
    let Verdict::TryAgain { reason, whole_peer: true } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains(part), "{part}: {reason}");
}

#[tokio::test]
async fn a_message_waits_with_the_reason_while_the_peer_cannot_prove_who_it_is() {
    let two = TwoParties::new();
    let url = two.addresses[1].to_string();
    let ours = two.a.gateway();
    let past = time::OffsetDateTime::now_utc() - time::Duration::days(2);
    let uri = |name: &str| rcgen::SanType::URI(format!("petnet://party/{name}").try_into().unwrap());
    let address = || rcgen::SanType::IpAddress([127, 0, 0, 1].into());
    let soon = past + time::Duration::days(2) + time::Duration::seconds(3);
    let cases = [
        (Member::new("b").gateway(), "is not signed by any of the certificates"),
        (two.b.with(vec![uri("b")], past, past + time::Duration::days(9)), "not valid for"),
        (
            two.b.with(vec![uri("a"), address()], past, past + time::Duration::days(9)),
            "is that of a, not of b",
        ),
        (two.b.with(vec![address()], past, past + time::Duration::days(9)), "does not tell that it is b's"),
        (two.b.with(vec![uri("b"), address()], past, soon), "expired"),
    ];
    for (pair, part) in cases {
        let b = two.start(1, &pair).await;
        if part == "expired" {
            until("it is", async || attempt(&two, &url, &ours).await != Verdict::Delivered).await;
        }
        assert_waits(&attempt(&two, &url, &ours).await, part);
        b.shutdown().await;
    }
    let b = two.start(1, &two.b.gateway()).await;
    assert_eq!(attempt(&two, &url, &ours).await, Verdict::Delivered);
    // The other way round: the peer does not believe us.
    assert_waits(&attempt(&two, &url, &Member::new("a").gateway()).await, "");
    // Nor do we use TLS with a peer that speaks in the clear.
    b.shutdown().await;
    let plain = RunningGateway::start(settings("b"), two.parties()).await;
    assert_waits(&attempt(&two, &plain.addr.to_string(), &ours).await, "TLS handshake failed");
    plain.shutdown().await;
}

#[tokio::test]
async fn what_waited_for_a_certificate_goes_on_after_its_rotation_without_a_restart() {
    let two = TwoParties::new();
    let a = two.start(0, &two.a.gateway()).await;
    let strangers = Member::new("b").gateway();
    let b = two.start(1, &strangers).await;
    let (at_a, at_b) = (two.client(0).await, two.addresses[1]);
    assert!(at_a.send("b", "m", "x").await.unwrap().success);
    // The peer is reached but not believed.
    assert!(call(at_b, &two.b, CallerProof::Certificate(&two.b.program())).await.is_err());
    assert_eq!(a.engine.pending_count(), 1);
    write_pair(two.folder(1), &two.b.gateway());
    b.gateway.reload();
    until("it is delivered", async || a.engine.pending_count() == 0).await;
    assert_eq!(two.client(1).await.receive("m").await, Some("x".into()));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn new_roots_in_the_party_file_count_for_the_next_connection() {
    let mut two = TwoParties::new();
    let (a, b) = (two.start(0, &two.a.gateway()).await, two.start(1, &two.b.gateway()).await);
    two.b = Member::new("b");
    write_pair(two.folder(1), &two.b.gateway());
    two.write_parties(1, &two.parties());
    b.gateway.reload();
    until("b shows its new certificate", async || {
        call(two.addresses[1], &two.b, CallerProof::Certificate(&two.b.program())).await.is_ok()
    })
    .await;
    // a still has the old roots of b: what it accepts now waits, or was delivered over the connection that was open.
    let at_a = two.client(0).await;
    assert!(at_a.send("b", "m", "x").await.unwrap().success);
    two.write_parties(0, &two.parties());
    a.gateway.reload();
    assert_eq!(two.client(1).await.receive("m").await, Some("x".into()));
    until("it is settled", async || a.engine.pending_count() == 0).await;
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_broken_new_file_is_refused_and_the_old_one_stays_in_force() {
    let two = TwoParties::new();
    let a = two.start(0, &two.a.gateway()).await;
    let trust = a.gateway.trust().clone();
    let file = two.folder(0).join("party.json");
    let good = std::fs::read(&file).unwrap();
    for bad in ["{", "{}", "{\"b\": {}}"] {
        std::fs::write(&file, bad).unwrap();
        a.gateway.reload_and_wait().await;
        assert_eq!(trust.borrow().version, 0, "{bad}");
    }
    std::fs::write(&file, good).unwrap();
    std::fs::write(two.folder(0).join(crate::tls::KEY), two.a.gateway().key).unwrap();
    a.gateway.reload_and_wait().await;
    assert_eq!(trust.borrow().version, 0, "a key that does not fit");
    std::fs::remove_file(two.folder(0).join(crate::tls::KEY)).unwrap();
    a.gateway.reload_and_wait().await;
    std::fs::remove_file(two.folder(0).join(crate::tls::CERTIFICATE)).unwrap();
    a.gateway.reload_and_wait().await;
    assert_eq!(trust.borrow().version, 0, "without certificates");
    let at_a = two.client(0).await;
    assert!(at_a.send("b", "m", "x").await.unwrap().success);
    write_pair(two.folder(0), &two.a.gateway());
    a.gateway.reload_and_wait().await;
    assert_eq!(trust.borrow().version, 1);
    a.shutdown().await;
}

#[tokio::test]
async fn a_party_that_comes_with_a_new_party_file_is_served_at_once_and_one_that_goes_keeps_its_messages() {
    let two = TwoParties::new();
    let a = two.start(0, &two.a.gateway()).await;
    let b = two.start(1, &two.b.gateway()).await;
    let (at_a, at_b) = (two.client(0).await, two.client(1).await);
    let without_b = Parties { parties: [two.a.entry("a:1", &["*"])].into() };
    two.write_parties(0, &without_b);
    a.gateway.reload_and_wait().await;
    assert_refused(&at_a.send("b", "m", "x").await.unwrap(), 30003, "not in the party file");
    let c = Member::new("c");
    let c_addr = free_address();
    let c_folder = tempfile::tempdir().unwrap();
    let mut with_c = two.parties();
    with_c.parties.extend([c.entry(&c_addr.to_string(), &["*"])]);
    let c_settings = Settings {
        listen_addr: c_addr,
        ..tls_settings("c", c_folder.path(), &c.gateway(), TlsClientAuth::Required)
    };
    let at_c = RunningGateway::start(c_settings, with_c.clone()).await;
    two.write_parties(0, &with_c);
    a.gateway.reload_and_wait().await;
    assert!(at_a.send("c", "new", "x").await.unwrap().success);
    assert!(at_a.send("b", "again", "y").await.unwrap().success);
    until("both are delivered", async || a.engine.pending_count() == 0).await;
    assert_eq!(at_b.receive("again").await, Some("y".into()));
    for gateway in [a, b, at_c] {
        gateway.shutdown().await;
    }
}
