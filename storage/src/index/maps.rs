//! Maps whose keys no outsider can choose: our own numbers, and index keys, which are made with a secret.
//!
//! They need no hash that withstands an attacker, and are searched several times per message under the state's lock.

use std::collections::HashMap;

/// A map with such keys.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
