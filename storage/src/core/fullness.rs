//! Whether new messages find room, reported as the store's state before any has to be refused. If large ones find none while
//! small ones do, it is reported from the first refusal on.
//!
//! Only the two states [`StoreState::Serving`] and [`StoreState::Full`] are exchanged here: any other state (a sync that
//! does not return, a poisoned store) is worse and says more.

use std::sync::Arc;

use crate::core::room::Space;
use crate::core::shared::Shared;
use crate::face::engine::StoreState;
use crate::face::error::Result;
use crate::log::segment::Lane;
use crate::log::spare_segments::SegmentTrouble;

/// What finds no room, as a text for the operator; `None` if everything does. `trouble`: why no segment can be made, if that
/// was tried.
fn refused(space: &Space, trouble: Option<&SegmentTrouble>) -> Option<Arc<str>> {
    let what = match [Lane::Small, Lane::Bulk].map(|lane| space.has_room(lane)) {
        [true, true] => {
            let bytes = space.refused()?;
            format!("messages of {bytes} bytes and more are refused; smaller ones still find room")
        }
        [true, false] => "messages of 64 KiB and more are refused; smaller ones still find room".into(),
        [false, _] => "new messages are refused".into(),
    };
    let (used, limit) = space.used();
    let go_on = "Receiving, delivering and releasing go on";
    let text = if let Some(trouble) = trouble {
        format!("{what}: {}. {used} bytes are used of {limit}. {go_on}", trouble.words())
    } else {
        format!(
            "{what}: {used} bytes are used of {limit}. {go_on}; room comes back when messages are delivered or expire, by a \
             higher STORE_MAX_BYTES, or by disk space"
        )
    };
    Some(text.into())
}

impl Shared {
    /// Admits a message of `cost` bytes to a lane. A refusal shows in the store's state from then on.
    pub(crate) fn admit(&self, lane: Lane, cost: u64) -> Result<()> {
        self.space.admit(lane, cost).inspect_err(|_| self.tell_fullness())
    }

    /// Updates the store's state if it became full or has room again.
    pub(crate) fn tell_fullness(&self) {
        let refused = refused(&self.space, self.spares.trouble().as_ref());
        self.status.send_if_modified(|state| {
            let told = matches!(state, StoreState::Full(_));
            match (&*state, &refused) {
                (StoreState::Serving | StoreState::Full(_), Some(why)) => {
                    if !told {
                        tracing::warn!(%why, "the store is full");
                    }
                    *state = StoreState::Full(why.clone());
                    !told
                }
                (StoreState::Full(_), None) => {
                    tracing::info!("the store has room for new messages again");
                    *state = StoreState::Serving;
                    true
                }
                _ => false,
            }
        });
    }
}
