//! What to answer where there are no dead letters.

/// The answer where there is no letter. `peer`: whose letters were meant; all peers' if empty.
pub(super) fn none(peer: &str) -> String {
    match peer {
        "" => "there are no dead letters".into(),
        peer => format!("there are no dead letters for {peer} or from it"),
    }
}
