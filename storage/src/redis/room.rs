//! Whether new messages find room, reported as the store's state before anyone has to be refused: in the words of the embedded
//! store.

use std::sync::Arc;

/// Bytes that a message counts for in addition to its content; the scripts know it, too.
const OVERHEAD: u64 = 400;
/// Content of messages that may find no room when smaller ones do.
const LARGE: u64 = 64 << 10;

const GOES_ON: &str = "Receiving, delivering and releasing go on; room comes back when messages are delivered, are released or expire";

/// What the quota has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LackOfRoom {
    pub(crate) what: &'static str,
    used: u64,
    limit: u64,
}

impl LackOfRoom {
    /// The lack of room, if any; `None` if there is room. `limit`: in bytes; 0 is no limit.
    pub(crate) fn of(used: u64, limit: u64) -> Option<Self> {
        let has_room = |content: u64| limit == 0 || used.saturating_add(content + OVERHEAD) <= limit;
        let what = match (has_room(0), has_room(LARGE)) {
            (_, true) => return None,
            (true, false) => "messages of 64 KiB and more are refused; smaller ones still find room",
            (false, false) => "new messages are refused",
        };
        Some(Self { what, used, limit })
    }

    /// The text for the operator.
    pub(crate) fn text(&self) -> Arc<str> {
        let Self { what, used, limit } = self;
        format!("{what}: {used} bytes are used of {limit}. {GOES_ON}, or by a higher STORE_MAX_BYTES").into()
    }
}

/// Whether this error of Redis means that its memory is full (`maxmemory`): then deletions continue. Redis 6 has it in the
/// middle of a script's error.
pub(crate) fn lacks_memory(said: &str) -> bool {
    said.contains("OOM ")
}

/// The text about a lack of memory for the operator.
pub(crate) fn lack_of_memory(said: &str) -> Arc<str> {
    format!("new messages are refused: Redis has no memory for them ({said}). {GOES_ON}, or by a higher maxmemory of Redis").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_told_from_what_does() {
        let what = |used, limit| LackOfRoom::of(used, limit).map(|lack| lack.what);
        assert_eq!(what(u64::MAX, 0), None, "no limit");
        assert_eq!(what(0, 1 << 20), None);
        assert_eq!(what((1 << 20) - LARGE - OVERHEAD, 1 << 20), None);
        assert!(what((1 << 20) - LARGE - OVERHEAD + 1, 1 << 20).unwrap().contains("64 KiB"));
        assert!(what((1 << 20) - OVERHEAD, 1 << 20).unwrap().contains("64 KiB"));
        assert_eq!(what((1 << 20) - OVERHEAD + 1, 1 << 20), Some("new messages are refused"));
        assert_eq!(what(u64::MAX, 1), Some("new messages are refused"));
        assert!(LackOfRoom::of(7, 8).unwrap().text().contains("7 bytes are used of 8"));
    }

    #[test]
    fn a_lack_of_memory_is_known_in_the_words_of_every_version() {
        for said in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "ERR Error running script (call to f_1): @user_script:12: -OOM command not allowed when used memory > 'maxmemory'.",
        ] {
            assert!(lacks_memory(said) && lack_of_memory(said).contains(said));
        }
        assert!(!lacks_memory("MISCONF Errors writing to the AOF file: No space left on device"));
    }
}
