//! What the quickstart does and says, from the first message to the last.
//!
//! Invariant: it says that a message arrived only after its bytes were compared.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use petnet_storage::MessageId;
use tokio::time::Instant;

use crate::cli::local::world::{GatewayPair, GatewayProcess, RunFolder, content};
use crate::cli::messages::client::{self, Client};
use crate::cli::terminal::progress;
use crate::cli::terminal::say::say;

/// Sizes of the first messages.
const SIZES: [usize; 4] = [64, 0, 64 << 10, 5 << 20];
/// Number of messages that are sent around the crash, and their sizes in turn.
const CRASH_MESSAGES: usize = 400;
const CRASH_SIZES: [usize; 5] = [64, 1 << 10, 0, 16 << 10, 128 << 10];
/// Number of accepted messages after which the receiving gateway is killed.
const KILL_AFTER: usize = 100;
/// Most messages under way at a time.
const CONCURRENT: usize = 16;
/// Longest wait for one message to be accepted or to arrive.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) fn opening(place: &RunFolder, tls: bool) {
    let end = if place.temporary.is_some() { "They are removed at the end." } else { "They stay there." };
    say(&format!(
        "PETNet quickstart\n\n\
         Two parties compute something together. Each runs one gateway; its programs talk only to that one.\n\
         Here both gateways run on this machine. Their files are in {}. {end}{}\n",
        place.path.display(),
        if tls {
            "\nEach party has an authority of its own, and everybody proves by TLS who it is."
        } else {
            ""
        }
    ));
}

pub(crate) async fn tell(world: &mut GatewayPair) -> anyhow::Result<()> {
    say("[1/4] Starting a gateway for each party");
    for gateway in [&mut world.a, &mut world.b] {
        let what = format!("      waiting for the gateway of {}", gateway.party);
        let took = progress::shown(|| what.clone(), gateway.start()).await?;
        say(&format!("      {} serves on {} after {}", gateway.party, gateway.address, time(took)));
    }

    say("\n[2/4] Sending messages of different sizes both ways");
    both_ways(&world.a, &world.b).await?;
    both_ways(&world.b, &world.a).await?;

    say(&format!(
        "\n[3/4] party_a sends {CRASH_MESSAGES} messages to party_b, and party_b's gateway is killed in the middle"
    ));
    let messages = crash_messages()?;
    send_through_a_crash(world, &messages).await?;

    say("\n[4/4] Starting party_b's gateway again on the same folder. Nobody sends anything again");
    let started = Instant::now();
    let took = progress::shown(|| "      waiting for the gateway".into(), world.b.start()).await?;
    say(&format!("      it serves again after {}, with everything it had before", time(took)));
    all_arrived(&world.b, &messages).await?;
    say(&format!(
        "      all {CRASH_MESSAGES} of {CRASH_MESSAGES} accepted messages are at party_b and match byte for byte, {} after \
         the restart\n\n\
         What you saw: \"accepted\" means that the message is on disk. It survives a crash of either gateway and is\n\
         delivered as soon as the other side is back, without Redis or any other service.",
        time(started.elapsed())
    ));
    Ok(())
}

/// Explains how to go on by hand.
pub(crate) fn by_hand(world: &GatewayPair) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let program = shell_word(&program.to_string_lossy());
    say(&format!(
        "\nBoth gateways keep running: party_a on {}, party_b on {}.\n\
         Send something yourself from another terminal:\n\n  \
         echo hello | {program} send {a} --to party_b --id greeting\n  \
         {program} recv {b} --id greeting\n\n\
         Ctrl-C stops both.",
        world.a.address,
        world.b.address,
        a = flags(&world.a),
        b = flags(&world.b),
    ));
    Ok(())
}

/// The flags with which `send` and `recv` reach a gateway.
fn flags(gateway: &GatewayProcess) -> String {
    let reached = gateway.reached();
    let certs = reached.certs.map(|folder| format!(" --certs {}", shell_word(&folder.to_string_lossy())));
    format!("--gateway {}{}", reached.gateway, certs.unwrap_or_default())
}

async fn both_ways(from: &GatewayProcess, to: &GatewayProcess) -> anyhow::Result<()> {
    let (mut sender, mut receiver) = (from.client().await?, to.client().await?);
    for size in SIZES {
        let id = MessageId::new(format!("hello/{}/{size}", from.party))?;
        let payload = content(id.as_str(), size);
        let started = Instant::now();
        client::send(&mut sender, &to.party, &id, payload.clone(), PATIENCE).await?;
        let accepted = started.elapsed();
        arrived(&mut receiver, &id, &payload).await?;
        let size = if size == 0 { "empty".into() } else { progress::bytes(size as u64) };
        say(&format!(
            "      {} -> {}  {size:>9}  accepted after {:>7}, arrived and matches after {:>7}",
            from.party,
            to.party,
            time(accepted),
            time(started.elapsed())
        ));
    }
    Ok(())
}

fn crash_messages() -> anyhow::Result<Vec<(MessageId, usize)>> {
    let message = |n: usize| Ok((MessageId::new(format!("crash/{n}"))?, CRASH_SIZES[n % CRASH_SIZES.len()]));
    (0..CRASH_MESSAGES).map(message).collect()
}

async fn send_through_a_crash(
    world: &mut GatewayPair,
    messages: &[(MessageId, usize)],
) -> anyhow::Result<()> {
    let sender = world.a.client().await?;
    let accepted = AtomicUsize::new(0);
    let receiver = world.b.party.clone();
    let mut sends = stream::iter(messages)
        .map(|(id, size)| {
            let (mut sender, receiver) = (sender.clone(), &receiver);
            async move { client::send(&mut sender, receiver, id, content(id.as_str(), *size), PATIENCE).await }
        })
        .buffer_unordered(CONCURRENT);
    let everything = async {
        while let Some(sent) = sends.next().await {
            sent?;
            if accepted.fetch_add(1, Relaxed) + 1 == KILL_AFTER {
                world.b.kill().await?;
                say(&format!(
                    "      {KILL_AFTER} accepted; party_b's gateway is dead now (SIGKILL), party_a goes on sending"
                ));
            }
        }
        anyhow::Ok(())
    };
    let what = || format!("      {} of {CRASH_MESSAGES} accepted", accepted.load(Relaxed));
    progress::shown(what, everything).await?;
    say(&format!(
        "      {CRASH_MESSAGES} accepted by party_a's gateway, at least {} of them while party_b's was dead",
        CRASH_MESSAGES - KILL_AFTER - CONCURRENT
    ));
    Ok(())
}

async fn all_arrived(at: &GatewayProcess, messages: &[(MessageId, usize)]) -> anyhow::Result<()> {
    let receiver = at.client().await?;
    let here = AtomicUsize::new(0);
    let everything =
        stream::iter(messages).map(anyhow::Ok).try_for_each_concurrent(CONCURRENT, |(id, size)| {
            let (mut receiver, here) = (receiver.clone(), &here);
            async move {
                arrived(&mut receiver, id, &content(id.as_str(), *size)).await?;
                here.fetch_add(1, Relaxed);
                Ok(())
            }
        });
    let what = || format!("      {} of {CRASH_MESSAGES} have arrived", here.load(Relaxed));
    progress::shown(what, everything)
        .await
        .with_context(|| format!("{} of {CRASH_MESSAGES} messages arrived", here.load(Relaxed)))
}

async fn arrived(receiver: &mut Client, id: &MessageId, expected: &Bytes) -> anyhow::Result<()> {
    match client::receive(receiver, id, None, PATIENCE).await? {
        Some(payload) if payload == expected => Ok(()),
        Some(payload) => bail!(
            "message {id:?} arrived with other bytes than were sent ({} bytes, {} sent)",
            payload.len(),
            expected.len()
        ),
        None => bail!("message {id:?} did not arrive within {PATIENCE:?}"),
    }
}

fn time(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// A path, quoted so that a shell takes it as one word.
fn shell_word(path: &str) -> String {
    if path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)) {
        return path.into();
    }
    let mut word = String::from("'");
    for c in path.chars() {
        match c {
            '\'' => word.push_str("'\\''"),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(shell_word("/usr/bin/petnet"), "/usr/bin/petnet");
        assert_eq!(shell_word("/my dir/it's"), "'/my dir/it'\\''s'");
    }
}
