//! What the store's tests share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::{
    Arrival, DeliveryIdentity, Engine, FromSender, Handed, Incarnation, ManualClock, MessageId, NoObserver,
    OpenReport, PartyId, Result, Sequence, Store, StoreOptions, Upload,
};

/// Small segments, so that short tests roll through several.
pub fn options(dir: &Path) -> StoreOptions {
    StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::new(dir) }
}

pub fn open(options: StoreOptions) -> (Arc<dyn Engine>, OpenReport) {
    Store::open(options, Arc::new(NoObserver)).expect("the store opens")
}

/// A clock that the test moves, and options that use it and move things to disk at once.
pub fn clocked(dir: &Path) -> (StoreOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let options = StoreOptions {
        clock: clock.clone(),
        checkpoint_every: Duration::ZERO,
        spill_after: Duration::ZERO,
        ..options(dir)
    };
    (options, clock)
}

pub fn party(id: &str) -> PartyId {
    PartyId::new(id).expect("a party id")
}

pub fn id(id: impl AsRef<str>) -> MessageId {
    MessageId::new(id).expect("a message id")
}

/// A payload that tells itself apart from others of the same length.
pub fn payload(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub fn arrival(sender: &str, message: &str, payload: Bytes, identity: Option<DeliveryIdentity>) -> Arrival {
    Arrival { sender: Some(party(sender)), id: id(message), payload, identity }
}

pub fn identity(started_ms: u64, number: u64, low_water: u64) -> DeliveryIdentity {
    DeliveryIdentity { incarnation: Incarnation { started_ms, random: started_ms }, number, low_water }
}

/// An upload that has got all of `bytes`, in pieces.
pub async fn upload(store: &Arc<dyn Engine>, bytes: &Bytes, piece: usize) -> Result<Box<dyn Upload>> {
    let mut upload = store.begin(None)?;
    for at in (0..bytes.len()).step_by(piece) {
        upload.push(bytes.slice(at..bytes.len().min(at + piece))).await?;
    }
    Ok(upload)
}

pub async fn read(store: &Arc<dyn Engine>, message: &str) -> Option<Bytes> {
    store.read(&FromSender::Any, &id(message)).await.expect("reads").map(|m| m.payload)
}

/// All pending messages of a peer as (id, payload), loaded.
pub async fn pending(store: &Arc<dyn Engine>, peer: &str) -> Vec<(String, Bytes)> {
    let peer = party(peer);
    let mut all = Vec::new();
    let mut after = Sequence(0);
    loop {
        let some = store.pending(&peer, after, 1000).await.expect("lists");
        let Some(last) = some.last() else { return all };
        after = last.sequence;
        for p in some {
            if let Some(m) = store.load(&peer, p.sequence).await.expect("loads") {
                all.push((m.id.to_string(), m.payload.whole().await.expect("reads")));
            }
        }
    }
}

/// Awaits a condition; panics after 30 s.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited 30 s in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everything in the mailbox is handed to a reader.
pub async fn read_all(store: &Arc<dyn Engine>) {
    let mail = store.topic(&FromSender::Any, "", Sequence(0), usize::MAX).await.expect("lists");
    let handed = mail.into_iter().map(|m| Handed { sender: m.sender, id: m.id, sequence: m.sequence });
    store.note_read(&handed.collect::<Vec<_>>());
}

/// Makes `to` a copy of the folder `from`.
pub fn copy_folder(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

/// The same, of a folder that may not be there, while it is written to.
pub fn copy_folder_if_there(from: &Path, to: &Path) {
    drop(std::fs::create_dir_all(to));
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder_if_there(&entry.path(), &to);
        } else {
            drop(std::fs::copy(entry.path(), to));
        }
    }
}
