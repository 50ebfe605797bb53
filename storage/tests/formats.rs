//! Data folders of formats that were once released are opened by every later version. `fixtures/v1` holds one: each file
//! as its length and its pages that are not all zero, and `manifest.txt` with what the store must say.
//!
//! The index is not part of it: it may be missing at any time, and is made anew. To write the fixture of the current
//! format anew: `PETNET_WRITE_FIXTURES=1 cargo test -p petnet-storage --test formats`. One that was released never changes.

mod common;
mod sim_disk;
mod trials;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{arrival, id, identity, party, payload, until};
use petnet_storage::{
    Arrival, DeadReason, Disk, Engine, FromSender, Handed, ManualClock, NoObserver, OpenReport, Outcome,
    Sequence, Store, StoreError, StoreOptions, Stored,
};
use sim_disk::SimDisk;
use trials::{block_on, number};

const DIR: &str = "/data";
const PAGE: usize = 4096;
const PEERS: [&str; 2] = ["party_b", "party_ü"];
/// Sender and id of everything that was ever delivered to the store.
const DELIVERED: [(&str, &str); 4] =
    [("party_a", "in"), ("party_a", "released"), ("party_a", "large in"), ("party_ü", "in")];

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

fn open(disk: &SimDisk) -> (Arc<dyn Engine>, OpenReport) {
    let options = StoreOptions {
        clock: Arc::new(ManualClock::default()),
        checkpoint_every: Duration::ZERO,
        spill_after: Duration::ZERO,
        housekeeping_every: Duration::from_millis(5),
        segment_bytes: 1 << 20,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::new(DIR)
    };
    Store::open(options, Arc::new(NoObserver)).expect("the store opens")
}

/// Large and mostly zero, so that the fixture stays small.
fn large(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&payload(seed, 8));
    bytes[len - 8..].copy_from_slice(&payload(seed + 1, 8));
    bytes.into()
}

/// Every kind of frame, what ended in every way, part of it known to the index and the checkpoint only.
async fn fill(store: &Arc<dyn Engine>) {
    let [b, c] = PEERS.map(party);
    let accept = async |peer: &petnet_storage::PartyId, name: &str, payload: Bytes| {
        store.accept(peer, &id(name), payload).await.expect("accepts")
    };
    accept(&b, "out", payload(1, 100)).await;
    accept(&b, "empty", Bytes::new()).await;
    accept(&c, "out", payload(2, 5000)).await;
    accept(&b, "replaced", payload(3, 30)).await;
    accept(&b, "replaced", payload(4, 31)).await;
    let delivered = accept(&b, "delivered", payload(5, 50)).await;
    store.settle(&b, delivered, Outcome::Delivered).await.expect("settles");
    for (name, dropped) in [("refused", false), ("dropped", true)] {
        let sequence = accept(&b, name, payload(6, 60)).await;
        let refused = Outcome::Dead(DeadReason::Refused("no such receiver".into()));
        store.settle(&b, sequence, refused).await.expect("buries");
        if dropped {
            store.drop_dead_letter(sequence).await.expect("drops");
        }
    }
    for (n, (sender, name)) in DELIVERED.into_iter().enumerate() {
        let bytes = if name == "large in" { large(7, 300_000) } else { payload(8 + n as u64, 70) };
        let known = Some(identity(1, n as u64 + 1, 1));
        store.store(arrival(sender, name, bytes, known)).await.expect("stores");
    }
    let unnamed = Arrival { sender: None, id: id("unnamed"), payload: payload(20, 9), identity: None };
    store.store(unnamed).await.expect("stores");
    store.release(&FromSender::Party(party("party_a")), &id("released")).await.expect("releases");
    until("all of this is in the index", async || store.stats().index_in_memory == 0).await;
    accept(&b, "large", large(21, 70_000)).await;
    accept(&c, "two slices", large(22, 270_000)).await;
    accept(&b, "last", payload(23, 24)).await;
}

/// What a store says, as the manifest has it.
async fn describe(store: &Arc<dyn Engine>) -> Result<String, StoreError> {
    let mut lines = Vec::new();
    let sum = |bytes: &Bytes| format!("{} bytes, CRC-32 {:08x}", bytes.len(), crc32fast::hash(bytes));
    for peer in PEERS {
        for p in store.pending(&party(peer), Sequence(0), 1000).await? {
            let m = store.load(&party(peer), p.sequence).await?.expect("pending");
            let (number, mark) = (m.identity.number, m.identity.low_water);
            lines.push(format!(
                "pending to {peer}: {} ({}), number {number}, mark {mark}",
                m.id,
                sum(&m.payload.whole().await?)
            ));
        }
    }
    for (sender, name) in DELIVERED {
        if let Some(m) = store.read(&FromSender::Party(party(sender)), &id(name)).await? {
            lines.push(format!("from {sender}: {} ({})", m.id, sum(&m.payload)));
        }
    }
    if let Some(m) = store.read(&FromSender::Unnamed, &id("unnamed")).await? {
        lines.push(format!("from nobody: {} ({})", m.id, sum(&m.payload)));
    }
    for l in store.dead_letters(Sequence(0), 1000).await? {
        lines.push(format!("dead letter {}: {} ({} bytes), {}", l.correspondent, l.id, l.len, l.reason));
    }
    let stats = store.stats();
    lines.push(format!("{} in the mailbox, {} dead letters", stats.mailbox_messages, stats.dead_letters));
    Ok(lines.into_iter().fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").expect("a string takes it");
        all
    }))
}

/// Length, then number and bytes of each page that is not all zero.
fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    for (n, page) in bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0)) {
        packed.extend((n as u64).to_le_bytes());
        packed.extend(page);
        packed.resize(packed.len() + PAGE - page.len(), 0);
    }
    packed
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let len = number(packed);
    let mut bytes = vec![0; len.next_multiple_of(PAGE)];
    for page in packed[8..].chunks(8 + PAGE) {
        let at = number(page) * PAGE;
        bytes[at..at + PAGE].copy_from_slice(&page[8..]);
    }
    bytes.truncate(len);
    bytes
}

/// A store of the current format as it is written today, at rest, and what it says.
fn written_today() -> (SimDisk, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let real = folder.path().join("real");
    std::fs::create_dir(&real).expect("makes a folder");
    let disk = SimDisk::new(Path::new(DIR), Some(real.join("index")));
    let said = block_on(async {
        let (store, _) = open(&disk);
        fill(&store).await;
        let said = describe(&store).await.expect("says");
        store.close().await.expect("closes");
        said
    });
    (disk, said)
}

fn write_fixture(disk: &SimDisk, said: &str, to: &Path) {
    std::fs::create_dir_all(to.join("log")).expect("makes a folder");
    for dir in ["", "log"] {
        let from = Path::new(DIR).join(dir);
        for name in disk.names(&from).into_iter().filter(|n| !["LOCK", "log"].contains(&n.as_str())) {
            std::fs::write(to.join(dir).join(&name), pack(&disk.bytes(&from.join(&name)))).expect("writes");
        }
    }
    std::fs::write(to.join("manifest.txt"), said).expect("writes");
}

fn read_fixture(from: &Path) -> (SimDisk, String) {
    let disk = SimDisk::new(Path::new(DIR), None);
    disk.create_dir(&Path::new(DIR).join("log")).expect("makes a folder");
    let mut said = String::new();
    for dir in ["", "log"] {
        for entry in std::fs::read_dir(from.join(dir)).expect("the fixture is there") {
            let path = entry.expect("lists").path();
            let name = path.file_name().expect("a name").to_owned();
            if name == "manifest.txt" {
                said = std::fs::read_to_string(&path).expect("reads");
            } else if path.is_file() {
                let bytes = unpack(&std::fs::read(&path).expect("reads"));
                disk.put_file(&Path::new(DIR).join(dir).join(&name), &bytes);
            }
        }
    }
    (disk, said)
}

#[test]
fn a_folder_of_format_1_opens_and_says_what_it_said_when_it_was_written() {
    if number("PETNET_WRITE_FIXTURES").is_some() {
        let (disk, said) = written_today();
        write_fixture(&disk, &said, &fixture(1));
    }
    let (disk, expected) = read_fixture(&fixture(1));
    block_on(async {
        let (store, report) = open(&disk);
        assert_eq!((report.damaged, report.torn_bytes), (0, 0), "{report}");
        assert_eq!(describe(&store).await.expect("says"), expected, "{report}");
        for (n, (sender, name)) in DELIVERED.into_iter().enumerate() {
            let again = arrival(sender, name, "again".into(), Some(identity(1, n as u64 + 1, 1)));
            assert_eq!(store.store(again).await.expect("answers"), Stored::Repeated, "{name} of {sender}");
        }
        store.accept(&party(PEERS[0]), &id("new"), payload(30, 100)).await.expect("accepts");
        store.accept(&party(PEERS[0]), &id("new and large"), payload(31, 70_000)).await.expect("accepts");
        let with_new = describe(&store).await.expect("says");
        store.close().await.expect("closes");
        drop(store);
        let (store, report) = open(&disk);
        assert_eq!(describe(&store).await.expect("says"), with_new, "{report}");
    });
}

#[test]
fn a_folder_of_an_earlier_version_counts_its_mail_as_unread() {
    let (disk, _) = read_fixture(&fixture(1));
    block_on(async {
        let (store, _) = open(&disk);
        let held = async |store: &Arc<dyn Engine>| {
            let mail = store.topic(&FromSender::Any, "", Sequence(0), 100).await.expect("lists");
            mail.into_iter().map(|found| (found.id.to_string(), found.unread)).collect::<Vec<_>>()
        };
        let mail = held(&store).await;
        assert!(mail.len() == 4 && mail.iter().all(|(_, unread)| *unread), "{mail:?}");
        let from = FromSender::Party(party("party_a"));
        let message = store.read(&from, &id("large in")).await.expect("reads").expect("is there");
        store.note_read(&[Handed::from(&message)]);
        store.close().await.expect("closes");
        drop(store);
        let (store, report) = open(&disk);
        let read: Vec<_> = held(&store).await.into_iter().filter(|(_, unread)| !unread).collect();
        assert_eq!(read, [("large in".to_owned(), false)], "{report}");
    });
}

/// Else the fixture and what it is made of have grown apart.
#[test]
fn a_store_that_is_filled_today_says_what_the_fixture_says() {
    let (_, said) = written_today();
    assert_eq!(said, read_fixture(&fixture(1)).1);
}
