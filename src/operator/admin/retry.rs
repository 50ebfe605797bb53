//! Attempts at once, because the operator asks for them: each peer is asked whether it answers, what waits for it is tried,
//! and the result is reported.
//!
//! A peer that answers may still refuse (a full store, a whitelist), so the first end of an attempt is waited for, too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use petnet_storage::PartyId;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::pending::unknown;
use super::{failed, messages, party};
use crate::delivery::forwarder::Course;
use crate::operator::overview::Overview;
use crate::proto::admin::Changed;
use crate::wire::wall_clock::now_ms;

/// How long a peer has to answer before the operator is told that it did not.
const ANSWER: Duration = Duration::from_secs(10);
/// How long an attempt has to end well, once the peer has answered.
const FIRST_END: Duration = Duration::from_secs(2);
/// Pause between two looks whether one has. Only an operator waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// Result of asking one peer.
#[derive(Debug, PartialEq, Eq)]
enum RetryResult {
    Paused,
    /// It answers, and nothing is in the way.
    Answers,
    /// It answers, but took none of what was tried, or not all of it.
    Refuses(Arc<str>),
    DoesNotAnswer(Arc<str>),
    NoAnswerYet,
}

/// Ends the pauses between attempts at one peer, or at all of them, and reports what came of it.
pub(super) async fn retry(overview: &Overview, peer: &str) -> Result<Changed, Status> {
    let courses = overview.peers.courses();
    let wanted: Vec<(PartyId, Arc<Course>)> = if peer.is_empty() {
        courses.into_iter().collect()
    } else {
        let name = party(peer)?;
        let Some(course) = courses.get(&name) else { return Err(unknown(&name)) };
        vec![(name, course.clone())]
    };
    let before: Vec<u64> = wanted.iter().map(|(name, _)| pending_for(overview, name)).collect();
    // With several gateways on one Redis, this tells the one that delivers.
    let names: Vec<PartyId> = wanted.iter().map(|(name, _)| name.clone()).collect();
    overview.engine.try_at_once(&names).await.map_err(failed)?;
    let each =
        wanted.iter().zip(&before).map(|((name, course), pending)| tried(overview, name, course, *pending));
    let tried = join_all(each).await;
    let lines = wanted.iter().zip(&before).zip(&tried);
    let lines: Vec<_> = lines.map(|(((name, _), pending), tried)| in_words(name, *pending, tried)).collect();
    Ok(Changed {
        messages: before.iter().sum(),
        text: lines.join("\n"),
        failed: tried.iter().filter(|tried| **tried != RetryResult::Answers).count() as u64,
    })
}

fn pending_for(overview: &Overview, name: &PartyId) -> u64 {
    let stats = overview.engine.stats();
    stats.pending.iter().find(|pending| pending.peer == *name).map_or(0, |pending| pending.messages)
}

/// Asks one peer.
async fn tried(overview: &Overview, name: &PartyId, course: &Course, pending: u64) -> RetryResult {
    if course.is_paused() {
        return RetryResult::Paused;
    }
    let since_ms = now_ms();
    let delivered = || overview.record.meters.peer(name).delivered.messages();
    let before = delivered();
    match timeout(ANSWER, course.ask()).await {
        Ok(Ok(())) if pending == 0 => RetryResult::Answers,
        Ok(Ok(())) => {
            let end = Instant::now() + FIRST_END;
            loop {
                // An attempt over an earlier connection may fail beside one that succeeds: an error counts only if it
                // stays.
                let refusal = course.last_error().filter(|last| last.at_ms >= since_ms);
                let is_taken = delivered() > before && refusal.is_none();
                if pending_for(overview, name) == 0 {
                    return RetryResult::Answers;
                }
                if is_taken || Instant::now() >= end {
                    return refusal.map_or(RetryResult::Answers, |last| RetryResult::Refuses(last.why));
                }
                sleep(LOOK).await;
            }
        }
        Ok(Err(why)) => RetryResult::DoesNotAnswer(why),
        Err(_) => RetryResult::NoAnswerYet,
    }
}

fn in_words(name: &PartyId, pending: u64, tried: &RetryResult) -> String {
    let waits = messages(pending);
    match tried {
        RetryResult::Paused => {
            format!(
                "{name} is PAUSED: nothing was tried, {waits} pending; petnet queue resume {name} begins again"
            )
        }
        RetryResult::Answers if pending == 0 => format!("{name} answers; nothing is pending for it"),
        RetryResult::Answers => format!("{name} answers; {waits} pending, tried at once"),
        RetryResult::Refuses(why) => {
            format!("{name} answers, but does not take what waits for it: {why}; {waits} pending")
        }
        RetryResult::DoesNotAnswer(why) => format!("{name} does not take messages: {why}; {waits} pending"),
        RetryResult::NoAnswerYet => {
            format!("{name} has not answered within {ANSWER:?}; attempts go on; {waits} pending")
        }
    }
}
