//! Index keys: a keyed 128-bit hash of direction, party and id, so that entries are small and of one size.
//!
//! SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012), keyed with the store's secret: no outsider can make two ids
//! collide. A frame read through a key is still compared with the id that was asked for.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::face::direction::Class;

/// The key of a message.
pub(crate) fn key(secret: (u64, u64), class: Class, party: &str, id: &str) -> u128 {
    let mut hasher = SipHasher24::new_with_keys(secret.0, secret.1);
    hasher.write(&[class as u8]);
    hasher.write(&(party.len() as u64).to_le_bytes());
    hasher.write(party.as_bytes());
    hasher.write(id.as_bytes());
    hasher.finish128().as_u128()
}
