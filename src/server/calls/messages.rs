//! Where the messages of a request begin and end: gRPC puts a flag and a length before each (gRPC over HTTP/2,
//! "Length-Prefixed-Message").

/// Length of the prefix of every message.
const PREFIX: usize = 5;

/// How far a body has come in its sequence of messages.
#[derive(Debug, Default)]
pub(super) struct BodyPosition {
    prefix: [u8; PREFIX],
    have: usize,
    len: u64,
    /// Bytes of the message that are still to come.
    left: u64,
}

/// What was seen in some bytes of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SeenMessages {
    /// Lengths of the messages that end in these bytes.
    pub(super) ended: Vec<u64>,
    /// Where the last of these messages ends; 0 if none does.
    pub(super) end: usize,
    /// The message after it, once its length is known: its length, and how much of it has come.
    pub(super) begun: Option<(u64, u64)>,
}

impl BodyPosition {
    /// Looks at the next bytes. Stops at a message larger than `largest`, which is then the one in `begun`.
    pub(super) fn see(&mut self, bytes: &[u8], largest: u64) -> SeenMessages {
        let mut seen = SeenMessages::default();
        let mut at = 0;
        loop {
            if self.have < PREFIX {
                let of_prefix = (bytes.len() - at).min(PREFIX - self.have);
                self.prefix[self.have..self.have + of_prefix].copy_from_slice(&bytes[at..at + of_prefix]);
                self.have += of_prefix;
                at += of_prefix;
                if self.have < PREFIX {
                    return seen;
                }
                let [_, len @ ..] = self.prefix;
                self.len = u32::from_be_bytes(len).into();
                self.left = self.len;
            }
            let of_message = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= of_message as u64;
            at += of_message;
            if self.left > 0 || self.len > largest {
                seen.begun = Some((self.len, self.len - self.left));
                return seen;
            }
            self.have = 0;
            seen.ended.push(self.len);
            seen.end = at;
            if at == bytes.len() {
                return seen;
            }
        }
    }

    /// Whether the body is between two messages: none has begun without ending.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        let lengths = [0_u32, 1, 300, 5, 70_000, 0];
        for len in lengths {
            bytes.push(0);
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xff, len as usize));
        }
        for cut in [1, 2, 3, 4, 5, 7, 1000, bytes.len()] {
            let mut messages = BodyPosition::default();
            let found: Vec<u64> =
                bytes.chunks(cut).flat_map(|some| messages.see(some, u64::MAX).ended).collect();
            assert_eq!(found, lengths.map(u64::from), "{cut}");
            assert!(messages.is_between());
        }
        let mut messages = BodyPosition::default();
        assert_eq!(messages.see(&[0, 0], 9), SeenMessages::default());
        assert!(!messages.is_between());
        assert_eq!(
            messages.see(&[0, 0, 2, 7], 9),
            SeenMessages { begun: Some((2, 1)), ..SeenMessages::default() }
        );
        let seen = messages.see(&[7, 0, 0, 0, 0, 1, 7, 0], 9);
        assert_eq!(seen, SeenMessages { ended: vec![2, 1], end: 7, begun: None });
        assert_eq!(messages.see(&[0, 0, 0, 10, 7, 7], 9).begun, Some((10, 2)), "above the largest");
    }
}
