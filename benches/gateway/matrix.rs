//! The matrix: every way, size and number of senders for a fixed time, each between two processes of its own that start
//! with nothing.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::exchange;
use crate::load::{self, Done, Load};
use crate::pair::Pair;
use crate::report::{Args, folder, percentile_ms};
use crate::table::{Row, Subject, Used};
use crate::ways::{Ends, Way, names_of};

/// Sizes of messages that are sent whole,
const SIZES: [usize; 5] = [64, 4 << 10, 64 << 10, 1 << 20, 16 << 20];
/// of one in pieces,
const STREAMED: usize = 1 << 30;
/// and numbers of senders.
const SENDERS: [usize; 4] = [1, 16, 64, 256];
/// Payload bytes under way in a row at most.
const UNDER_WAY: usize = 512 << 20;
/// Longest time a row may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What to know when reading the table.
pub(crate) const FOOT: &str = "\
Accepted: messages for which the sender has its answer, from the first send to the last answer. MB/s: payload from the first \
send until the last message is read by the other party's client. p50 and p99: of one send, from its beginning to its answer; \
ping-pong: of a message there and one back, and both count. Syncs and CPU are of both gateways together, memory is of \
the larger one at its peak; the one message with which each sender connects before the clock starts counts for them. \
A sender over simple and Mailbox has one message under way. Over Exchange it has a stream of \
its own with 512 messages or 4 MiB under way (2 MiB with 256 senders), so a send takes as long as a full window, and \
all messages arrive on one stream, those above 256 KiB as a note that they are to be fetched. Rows with \
more than 512 MiB under way are left out: 16 MiB with 64 and 256 senders, and over Exchange, whose requests have 4 MiB at most. The clients, in one process, share \
the processors with the gateways.";

/// The rows of these ways.
pub(crate) fn subjects(ways: &[Way]) -> Vec<Subject> {
    ways.iter().flat_map(|way| rows_of(*way)).collect()
}

fn rows_of(way: Way) -> Vec<Subject> {
    if way == Way::Stream {
        return vec![Subject { way, size: STREAMED, senders: Some(1) }];
    }
    let mut rows = Vec::new();
    if way != Way::Exchange {
        rows.push(Subject { way, size: SIZES[0], senders: None });
    }
    for size in SIZES {
        // A request of Exchange has 4 MiB at most.
        if way == Way::Exchange && size > 1 << 20 {
            continue;
        }
        let fits = |senders: &usize| size * senders <= UNDER_WAY;
        let row = |senders| Subject { way, size, senders: Some(senders) };
        rows.extend(SENDERS.into_iter().filter(fits).map(row));
    }
    rows
}

/// How long a row sends.
pub(crate) fn time(args: &Args) -> Duration {
    Duration::from_millis(args.pick(2000, 500))
}

/// All rows of these ways. The ways take turns, so that a machine that is shared or slows down hits all of them alike.
pub(crate) async fn run(ways: &[Way], time: Duration) -> Result<Vec<Row>> {
    let mut subjects = subjects(ways);
    subjects.sort_by_key(|subject| (subject.size, subject.senders));
    let mut rows = Vec::new();
    for subject in subjects {
        let row =
            measured(subject, time).await.map_err(|error| failed(&error, &subject.words(), subject.way))?;
        eprintln!("  {}: {:.0}/s, {:.1} MB/s", subject.words(), row.accepted, row.rate);
        rows.push(row);
    }
    rows.sort_by_key(|row| ways.iter().position(|way| *way == row.subject.way));
    Ok(rows)
}

/// Moves one message over each way, so that one that does not work is known before the others are measured.
pub(crate) async fn probe(ways: &[Way]) -> Result<()> {
    let folder = folder();
    let pair = Pair::gateways(folder.path());
    for &way in ways.iter().filter(|way| **way != Way::Floor) {
        let subject = Subject { way, size: 64, senders: Some(1) };
        let work =
            work(subject, Ends::of(pair.addresses()), format!("probe-{}/", way.name()), Duration::ZERO);
        work.await.map_err(|error| failed(&error, "a message of 64 B", way))?;
    }
    Ok(())
}

/// Says which way failed, and how to go on without it.
pub(crate) fn failed(error: &anyhow::Error, what: &str, way: Way) -> anyhow::Error {
    let others: Vec<_> = Way::ALL.into_iter().filter(|other| *other != way).collect();
    let [way, others] = [way.name().to_owned(), names_of(&others)];
    anyhow!("the way {way} does not work ({what}): {error:#}\nthe others: --ways {others}")
}

/// One row between two processes of its own.
async fn measured(subject: Subject, time: Duration) -> Result<Row> {
    let folder = folder();
    let floor = subject.way == Way::Floor;
    let pair = if floor { Pair::relays() } else { Pair::gateways(folder.path()) };
    let before = pair.processor_time();
    let done = work(subject, Ends::of(pair.addresses()), "m/".into(), time).await?;
    let processor = pair.processor_time().saturating_sub(before).as_secs_f64();
    let memory = pair.peak_memory();
    let all = (done.messages + done.before) as f64;
    let syncs = (!floor).then(|| pair.stop().1 as f64 * 1e3 / all);
    Ok(row(subject, &done, Some(Used { syncs, processor: processor * 1e4 / all, memory })))
}

/// The load of one row.
pub(crate) async fn work(subject: Subject, ends: Ends, run: String, time: Duration) -> Result<Done> {
    let Subject { way, size: bytes, senders } = subject;
    let load = Load { run, size: bytes, senders: senders.unwrap_or(1), time };
    // As a task: the thread that blocks on the runtime is not one of its workers.
    let work = tokio::spawn(async move {
        let work = async {
            match way {
                _ if senders.is_none() => load::ping_pong(way, &ends, &load).await,
                Way::Floor | Way::Simple | Way::Mailbox => load::senders(way, &ends, &load).await,
                Way::Exchange => exchange::load(&ends, &load).await,
                Way::Stream => load::streams(&ends, &load).await,
            }
        };
        tokio::time::timeout(LIMIT, work).await
    });
    work.await?.with_context(|| format!("it took more than {} s", LIMIT.as_secs()))?
}

/// The figures of what was done.
pub(crate) fn row(subject: Subject, done: &Done, used: Option<Used>) -> Row {
    let messages = done.messages as f64;
    Row {
        subject,
        accepted: messages / done.accepted_in.as_secs_f64(),
        rate: messages * subject.size as f64 / 1e6 / done.received_in.as_secs_f64(),
        p50: percentile_ms(&done.times, 50),
        p99: percentile_ms(&done.times, 99),
        used,
    }
}
