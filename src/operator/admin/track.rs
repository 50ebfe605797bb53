//! The life of messages with a given id: what the store knows of them now, and what the journal remembers.

use std::collections::BTreeSet;

use petnet_storage::{DeadReason, FromSender, MessageId, PartyId, Sequence, Tracked};
use tonic::Status;

use super::{failed, party};
use crate::operator::overview::Overview;
use crate::proto::admin::{self, Life, TrackRequest, TrackResponse};
use crate::record::journal::{Event, EventKind};
use crate::wire::status;

/// Every message with the id: one life for each direction and party.
pub(super) async fn lives(overview: &Overview, request: TrackRequest) -> Result<TrackResponse, Status> {
    let id = MessageId::new(request.message_id).map_err(|why| status::admin_invalid(&why.to_string()))?;
    let events = overview.record.journal.of(&id);
    let parties = match request.party.as_str() {
        "" => parties(overview, &events),
        one => BTreeSet::from([party(one)?]),
    };
    let mut lives = Vec::new();
    for peer in &parties {
        let tracked = overview.engine.track_sent(peer, &id).await.map_err(failed)?;
        let of_peer = |event: &&Event| event.what.is_of_sent() && event.party.as_ref() == Some(peer);
        let told: Vec<_> = events.iter().filter(of_peer).collect();
        let tracked = corrected(tracked, &told);
        if tracked != Tracked::Unknown || !told.is_empty() {
            let mut life = life("sent", peer.as_str(), &tracked, &told);
            if let Tracked::Pending { sequence, .. } = tracked {
                ages(overview, peer, sequence, &mut life).await?;
            }
            lives.push(life);
        }
    }
    let mut senders: Vec<_> = parties.into_iter().map(Some).collect();
    if request.party.is_empty() {
        senders.push(None);
    }
    for sender in senders {
        let from = FromSender::from(sender.clone());
        let tracked = overview.engine.track_received(&from, &id).await.map_err(failed)?;
        let arrived = |event: &&Event| is_of_arrival(event, sender.as_ref());
        let told: Vec<_> = events.iter().filter(arrived).collect();
        let is_known = told.iter().any(|event| event.what != EventKind::Released);
        if tracked != Tracked::Unknown || is_known {
            let name = sender.as_ref().map(PartyId::as_str).unwrap_or_default();
            lives.push(life("received", name, &tracked, &told));
        }
    }
    Ok(TrackResponse { lives })
}

/// Whether the event belongs to what became of a sender's message here. A release from any sender names none: it is shown
/// with every message that arrived.
fn is_of_arrival(event: &Event, sender: Option<&PartyId>) -> bool {
    let is_anybodys = event.what == EventKind::Released && event.party.is_none();
    !event.what.is_of_sent() && (event.party.as_ref() == sender || is_anybodys)
}

/// A message that was dropped while it was under way may have arrived all the same: then the peer has it, whatever was
/// intended.
fn corrected(tracked: Tracked, events: &[&Event]) -> Tracked {
    match tracked {
        Tracked::Dropped { sequence }
            if events
                .iter()
                .any(|event| event.what == EventKind::Delivered && event.sequence == sequence.0) =>
        {
            Tracked::Delivered { sequence }
        }
        tracked => tracked,
    }
}

/// All parties that may have such a message.
fn parties(overview: &Overview, events: &[Event]) -> BTreeSet<PartyId> {
    let mut all: BTreeSet<PartyId> = overview.trust.borrow().parties.parties.keys().cloned().collect();
    all.extend(overview.engine.stats().pending.into_iter().map(|pending| pending.peer));
    all.extend(events.iter().filter_map(|event| event.party.clone()));
    all.remove(&overview.identity.party);
    all
}

async fn ages(
    overview: &Overview,
    peer: &PartyId,
    sequence: Sequence,
    life: &mut Life,
) -> Result<(), Status> {
    let before = Sequence(sequence.0.saturating_sub(1));
    let list = overview.engine.pending(peer, before, 1).await.map_err(failed)?;
    if let Some(pending) = list.into_iter().find(|pending| pending.sequence == sequence) {
        life.age_seconds = Some(pending.age);
        life.expires_seconds = pending.expires_in;
    }
    Ok(())
}

fn life(direction: &str, party: &str, tracked: &Tracked, events: &[&Event]) -> Life {
    let (state, sequence, len) = match tracked {
        Tracked::Unknown => ("unknown", Sequence(0), None),
        Tracked::Pending { sequence, len } => ("pending", *sequence, Some(*len)),
        Tracked::Delivered { sequence } => ("delivered", *sequence, None),
        Tracked::Dead { sequence, len, .. } => ("dead", *sequence, Some(*len)),
        Tracked::Dropped { sequence } => ("dropped", *sequence, None),
        Tracked::Held { sequence, len, .. } => ("held", *sequence, Some(*len)),
        Tracked::Released { sequence } => ("released", *sequence, None),
        Tracked::Expired { sequence } => ("expired", *sequence, None),
    };
    let reason = if let Tracked::Dead { reason, .. } = tracked {
        DeadReason::to_string(reason)
    } else {
        String::new()
    };
    let replaced = superseded(events);
    let mut events: Vec<_> = events.iter().flat_map(|event| told(event)).chain(replaced).collect();
    // It came before anything happened to it, even if that was within the same millisecond.
    events.sort_by_key(|event| (event.at_ms, event.what != "taken"));
    let dead_seconds = if let Tracked::Dead { dead_for, .. } = tracked { *dead_for } else { None };
    Life {
        dead_seconds,
        direction: direction.into(),
        party: party.into(),
        sequence: sequence.0,
        state: state.into(),
        reason,
        len,
        age_seconds: None,
        expires_seconds: None,
        events,
    }
}

/// Messages whose place a later one took while nothing else had ended them, as far as that is remembered. A message that
/// was read may have ended before that, so nothing is said of it.
fn superseded(events: &[&Event]) -> Vec<admin::Event> {
    let begins = |event: &&&Event| {
        matches!(
            event.what,
            EventKind::Accepted | EventKind::Retried | EventKind::Arrived | EventKind::PutBack
        ) && event.sequence > 0
    };
    let mut begun: Vec<&Event> = events.iter().filter(begins).copied().collect();
    begun.sort_by_key(|event| (event.sequence, event.at_ms));
    begun.dedup_by_key(|event| event.sequence);
    let mut found = Vec::new();
    for pair in begun.windows(2) {
        let [one, next] = pair else { continue };
        // Release events name no sequence.
        let is_of_it = |event: &&&Event| {
            event.sequence == one.sequence
                || event.what == EventKind::Released && (one.at_ms..=next.at_ms).contains(&event.at_ms)
        };
        let mut rest = events.iter().filter(is_of_it);
        let is_over = rest.any(|event| !matches!(event.what, EventKind::Failed) && !begins(&event));
        if !is_over {
            let detail = format!("sequence {}, by sequence {}", one.sequence, next.sequence);
            found.push(admin::Event { at_ms: next.at_ms, what: "superseded".into(), detail });
        }
    }
    found
}

/// An event in the words of the protocol. An acceptance becomes two: when the message came, and when the sync had ended.
fn told(event: &Event) -> Vec<admin::Event> {
    let what = match event.what {
        EventKind::Accepted => {
            // Rounded up: nothing about the message happened before it came.
            let taken = event.at_ms.saturating_sub(u64::from(event.took_us.div_ceil(1000)));
            let detail = format!("{:.1} ms after it came", f64::from(event.took_us) / 1000.0);
            return vec![
                admin::Event { at_ms: taken, what: "taken".into(), detail: sequence(event) },
                admin::Event { at_ms: event.at_ms, what: "synced".into(), detail },
            ];
        }
        EventKind::Delivered => "delivered",
        EventKind::Failed => "attempt",
        EventKind::Died | EventKind::DiedUnread => "dead",
        EventKind::Retried | EventKind::PutBack => "retried",
        EventKind::Dropped | EventKind::DroppedUnread => "dropped",
        EventKind::Arrived => "arrived",
        EventKind::Read => "read",
        EventKind::Released => "released",
    };
    let detail = event.detail.as_deref().map_or_else(|| sequence(event), str::to_owned);
    vec![admin::Event { at_ms: event.at_ms, what: what.into(), detail }]
}

/// Which of several messages that had the id the event is about.
fn sequence(event: &Event) -> String {
    if event.sequence == 0 { String::new() } else { format!("sequence {}", event.sequence) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::journal::Journal;
    use crate::testing::{message_id, party};

    #[test]
    fn a_release_is_told_of_the_senders_that_it_meant() {
        let (journal, id) = (Journal::default(), message_id("m"));
        let (b, c) = (party("b"), party("c"));
        journal.note(EventKind::Arrived, Some(&b), &id, Sequence(1));
        journal.note(EventKind::Arrived, Some(&c), &id, Sequence(2));
        let told = |sender| journal.of(&id).iter().filter(|event| is_of_arrival(event, Some(sender))).count();
        journal.note(EventKind::Released, Some(&b), &id, Sequence(0));
        assert_eq!((told(&b), told(&c)), (2, 1));
        journal.note(EventKind::Released, None, &id, Sequence(0));
        assert_eq!((told(&b), told(&c)), (3, 2));
    }

    #[test]
    fn what_was_dropped_and_arrived_all_the_same_is_delivered() {
        let (journal, peer, id) = (Journal::default(), party("b"), message_id("m"));
        let dropped = Tracked::Dropped { sequence: Sequence(7) };
        journal.note(EventKind::Dropped, Some(&peer), &id, Sequence(7));
        // An earlier message under the same id.
        journal.note(EventKind::Delivered, Some(&peer), &id, Sequence(6));
        let events = journal.of(&id);
        assert_eq!(corrected(dropped.clone(), &events.iter().collect::<Vec<_>>()), dropped);
        journal.note(EventKind::Delivered, Some(&peer), &id, Sequence(7));
        let events = journal.of(&id);
        let told = corrected(dropped, &events.iter().collect::<Vec<_>>());
        assert_eq!(told, Tracked::Delivered { sequence: Sequence(7) });
    }

    #[test]
    fn what_was_replaced_while_it_waited_is_told_and_what_may_have_ended_otherwise_is_not() {
        let (peer, id) = (party("b"), message_id("m"));
        let told = |events: &[(EventKind, u64)]| {
            let journal = Journal::default();
            for (what, sequence) in events {
                journal.note(*what, Some(&peer), &id, Sequence(*sequence));
            }
            let events = journal.of(&id);
            let found = superseded(&events.iter().collect::<Vec<_>>());
            found.into_iter().map(|event| event.detail).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&[(EventKind::Accepted, 3), (EventKind::Failed, 3), (EventKind::Accepted, 7)]),
            ["sequence 3, by sequence 7"]
        );
        assert_eq!(told(&[(EventKind::Arrived, 3), (EventKind::Arrived, 7)]), ["sequence 3, by sequence 7"]);
        for end in [EventKind::Delivered, EventKind::Died, EventKind::Dropped] {
            assert!(
                told(&[(EventKind::Accepted, 3), (end, 3), (EventKind::Accepted, 7)]).is_empty(),
                "{end:?}"
            );
        }
        for end in [EventKind::Read, EventKind::DiedUnread, EventKind::DroppedUnread] {
            assert!(
                told(&[(EventKind::Arrived, 3), (end, 3), (EventKind::Arrived, 7)]).is_empty(),
                "{end:?}"
            );
        }
        assert!(
            told(&[(EventKind::Arrived, 3), (EventKind::Released, 0), (EventKind::Arrived, 7)]).is_empty()
        );
        assert!(
            told(&[(EventKind::Accepted, 3), (EventKind::Accepted, 3)]).is_empty(),
            "tried again under its key"
        );
    }
}
