//! Commands about the gateways of a place, and what is waited for.

use std::fs;
use std::time::{Duration, Instant};

use super::{DEADLINE, Place, petnet, run};

/// A command about the gateway of `party_a` (0) or `party_b` (1): its exit code, stdout and stderr.
pub fn asked(place: &Place, party: usize, words: &[&str]) -> (Option<i32>, String, String) {
    let folder = place.path(["party_a", "party_b"][party]);
    let (code, out, err) = run(petnet(words).arg("--data-dir").arg(folder));
    (code, String::from_utf8(out).unwrap(), err)
}

/// The same, its words in a line.
pub fn about(place: &Place, party: usize, line: &str) -> (Option<i32>, String, String) {
    asked(place, party, &line.split(' ').collect::<Vec<_>>())
}

/// The same, which must succeed: its stdout.
#[track_caller]
pub fn done(place: &Place, party: usize, line: &str) -> String {
    let (code, out, err) = about(place, party, line);
    assert_eq!(code, Some(0), "petnet {line}: {out}{err}");
    out
}

/// Sends a message from `party_a` to `party_b`.
#[track_caller]
pub fn send(place: &Place, id: &str, content: impl AsRef<[u8]>) {
    let file = place.path("payload");
    fs::write(&file, content).unwrap();
    let address = place.address(0);
    let words = ["send", "--gateway", &address, "--to", "party_b", "--id", id, file.to_str().unwrap()];
    let (code, _, err) = run(&mut petnet(&words));
    assert_eq!(code, Some(0), "{err}");
}

/// Looks again and again until something is found.
#[track_caller]
pub fn awaited<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
