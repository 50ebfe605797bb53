//! Many messages in one call.

use std::sync::Arc;

use petnet_storage::{Engine, Stored};

use super::{Direction, Ledger};
use crate::common::{arrival, id, identity, party};

impl Ledger {
    /// The same in one call.
    pub(super) async fn accept_many(
        &mut self,
        store: &Arc<dyn Engine>,
        sends: &[(&'static str, String, usize)],
    ) {
        let (mut noted, mut messages) = (Vec::new(), Vec::new());
        for (peer, name, len) in sends {
            let key = (Direction::Outgoing, *peer, name.clone());
            let (bytes, at) = self.attempt(&key, *len, None);
            messages.push((party(peer), id(name), bytes));
            noted.push((key, at));
        }
        for ((key, at), result) in noted.into_iter().zip(store.accept_many(messages).await.await) {
            self.tell(&key, at, &result);
        }
    }

    /// Stores deliveries in one call: sender, id, length, number.
    pub async fn store_many(
        &mut self,
        store: &Arc<dyn Engine>,
        deliveries: &[(&'static str, String, usize, u64)],
    ) {
        let (mut noted, mut arrivals) = (Vec::new(), Vec::new());
        for (sender, name, len, number) in deliveries {
            let key = (Direction::Incoming, *sender, name.clone());
            let known = Some(identity(1, *number, 1));
            let (bytes, at) = self.attempt(&key, *len, known);
            arrivals.push(arrival(sender, name, bytes, known));
            noted.push((key, at));
        }
        for ((key, at), result) in noted.into_iter().zip(store.store_many(arrivals).await) {
            if let Ok(Stored::Repeated | Stored::Stale) = result {
                panic!("{key:?}: a first delivery was taken for {result:?}");
            }
            self.tell(&key, at, &result);
        }
    }
}
