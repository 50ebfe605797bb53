//! A dead letter as the operator and the page see it.

use petnet_storage::DeadLetter;

use crate::proto::admin;
use crate::record::meters;

/// A dead letter as the operator sees it.
pub(crate) fn shown(letter: &DeadLetter) -> admin::DeadLetter {
    admin::DeadLetter {
        sequence: letter.sequence.0,
        peer: letter.correspondent.name().to_owned(),
        arrived: letter.correspondent.is_from(),
        dead_seconds: letter.dead_for,
        message_id: letter.id.to_string(),
        len: letter.len,
        reason: meters::death(&letter.reason).into(),
        reason_text: letter.reason.to_string(),
    }
}
