//! The way to a peer, step by step, as deliveries take it: the name, the connection, TLS, who answers, how fast, and what
//! size gets through.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use petnet_storage::PartyId;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{CheckDepth, Finding};
use crate::config::Settings;
use crate::delivery::peer_link::Dial;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;
use crate::proto::simple::ServerSimpleSendRequest;
use crate::proto::simple::simple_request_server_client::SimpleRequestServerClient;
use crate::rules::parties::{Connection, Parties};
use crate::tls::trust::Trust;
use crate::wire::metadata;
use crate::wire::status::code;

/// Number of round trips that are timed.
const ROUND_TRIPS: usize = 5;
/// Sizes of messages that are tried, in bytes; each is tried after the one before it came through.
const SIZES: [u64; 8] = [1 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];
/// Bytes for which a slow link may take a second.
const BYTES_PER_SECOND: u64 = 256 << 10;

pub(super) async fn examine(
    settings: &Settings,
    parties: &Parties,
    peer: &PartyId,
    connection: &Connection,
    depth: CheckDepth,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let trust = match settings.trust(parties.clone(), 0) {
        Ok(trust) => trust,
        Err(why) => return vec![Finding::bad(why, "mend the certificates of the party file")],
    };
    if !connection.admits(&settings.party) {
        findings.push(Finding::warning(
            format!(
                "its whitelist does not name {}: sends to it over this connection are refused",
                settings.party
            ),
            "name us there (or \"*\"), if messages are to go to it",
        ));
    }
    let Err(last) = walk(&trust, peer, connection, depth, &mut findings).await;
    findings.push(last);
    findings
}

/// Goes as far as it can; the error is the finding at which it ended, good or bad.
async fn walk(
    trust: &Trust,
    peer: &PartyId,
    connection: &Connection,
    depth: CheckDepth,
    findings: &mut Vec<Finding>,
) -> Result<std::convert::Infallible, Finding> {
    let address = connection.url.as_str();
    let resolved = resolve(address, depth.timeout).await?;
    findings.push(Finding::good(format!("{address} is {}", in_words(&resolved))));
    findings.push(connect(&resolved, depth.timeout).await?);
    let dial = Dial::new(trust, peer, connection)
        .map_err(|why| Finding::bad(why, "mend this connection in the party file"))?;
    let channel = timeout(depth.timeout, dial.connect())
        .await
        .map_err(|_| {
            Finding::bad("it accepts the connection and no handshake", "is a gateway behind this port?")
        })?
        .map_err(|why| {
            Finding::bad(chain(&why), "whose certificate is it, and does the party file have its root?")
        })?;
    findings.push(Finding::good(if dial.is_tls() {
        format!("TLS: its certificate is that of {peer}")
    } else {
        "plaintext: nobody proves who answers".into()
    }));
    findings.push(answers(channel.clone(), peer, depth.timeout).await?);
    Err(largest(channel, trust, peer, depth).await)
}

async fn resolve(address: &str, limit: Duration) -> Result<Vec<SocketAddr>, Finding> {
    let advice = "is the name right, and does this machine's DNS know it?";
    let found = timeout(limit, lookup_host(address)).await;
    let bad = |why: String| Finding::bad(format!("{address} cannot be resolved: {why}"), advice);
    let found: Vec<_> =
        found.map_err(|_| bad("no answer in time".into()))?.map_err(|e| bad(e.to_string()))?.collect();
    if found.is_empty() { Err(bad("it has no address".into())) } else { Ok(found) }
}

fn in_words(addresses: &[SocketAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    all.join(", ")
}

async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<Finding, Finding> {
    let start = Instant::now();
    match timeout(limit, TcpStream::connect(addresses)).await {
        Ok(Ok(socket)) => {
            let to = socket.peer_addr().map(|to| to.to_string()).unwrap_or_default();
            Ok(Finding::good(format!("connects to {to} in {:.1?}", start.elapsed())))
        }
        Ok(Err(why)) => Err(Finding::bad(
            format!("does not connect: {why}"),
            "does its gateway run, and is the port open on the way?",
        )),
        Err(_) => Err(Finding::bad(
            format!("no answer to connecting within {limit:?}"),
            "a firewall that drops packets, or a machine that is off",
        )),
    }
}

/// Checks who answers, and how fast.
async fn answers(channel: Channel, peer: &PartyId, limit: Duration) -> Result<Finding, Finding> {
    let mut health = HealthClient::new(channel);
    let mut best = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        let answer = timeout(limit, health.check(HealthCheckRequest::default())).await;
        match answer.map_err(|_| Finding::bad("no answer to a call", "is a gateway behind this port?"))? {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
                best = best.min(start.elapsed());
            }
            Ok(_) => {
                let advice =
                    format!("its store has a problem, or it is stopping: ask {peer}; messages wait here");
                return Err(Finding::warning("a gateway answers, and says that it does not serve", advice));
            }
            Err(status) => return Err(refusal(&status, peer)),
        }
    }
    Ok(Finding::good(format!("a gateway answers and serves; {best:.1?} there and back")))
}

fn refusal(status: &Status, peer: &PartyId) -> Finding {
    let words = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unimplemented => Finding::warning(
            "it answers, and does not know petnet.health.v1: a Python PETNet?",
            "deliveries work with it; how large they may be was not tried, for it would keep what is tried",
        ),
        Code::PermissionDenied => {
            let advice =
                format!("does the party file of {peer} have our root, and is server.crt signed by it?");
            Finding::bad(format!("it does not take us for who we are: {words}"), advice)
        }
        _ => {
            let advice = format!("does {peer} believe our certificate? its log says why it refused");
            Finding::bad(format!("the call failed: {words}"), advice)
        }
    }
}

/// Sends messages without an id, which every gateway of this kind refuses once it has read them.
async fn largest(channel: Channel, trust: &Trust, peer: &PartyId, depth: CheckDepth) -> Finding {
    let mut passed = 0;
    for size in SIZES.into_iter().chain([depth.largest]).filter(|size| *size <= depth.largest) {
        if size <= passed {
            continue;
        }
        let time = depth.timeout + Duration::from_secs(size / BYTES_PER_SECOND);
        let stops = match timeout(time, refused(channel.clone(), &trust.own, size)).await {
            Ok(Ok(())) => {
                passed = size;
                continue;
            }
            Ok(Err(stops)) => stops,
            Err(_) => StoppedBy::There(format!("no answer within {time:?}")),
        };
        return match stops {
            StoppedBy::Us(why) => Finding::bad(
                format!("it refuses our deliveries: {why}"),
                format!("the entry of {peer} in its own party file needs {} in its whitelist", trust.own),
            ),
            StoppedBy::There(why) if passed == 0 => {
                Finding::bad(format!("a delivery does not get through: {why}"), "see its log")
            }
            StoppedBy::There(why) => Finding::warning(
                format!("messages of {} pass, of {} do not: {why}", bytes(passed), bytes(size)),
                "its MAX_MESSAGE_BYTES, or a proxy on the way; larger messages become dead letters",
            ),
        };
    }
    Finding::good(format!("messages of {} pass (the largest that was tried)", bytes(passed)))
}

fn bytes(size: u64) -> String {
    if size >= 1 << 20 { format!("{} MiB", size >> 20) } else { format!("{} KiB", size.div_ceil(1 << 10)) }
}

/// What stopped an attempt.
enum StoppedBy {
    /// The peer does not accept who we are.
    Us(String),
    /// What we sent was not accepted, or did not get through.
    There(String),
}

async fn refused(channel: Channel, ours: &PartyId, size: u64) -> Result<(), StoppedBy> {
    let payload = Bytes::from(vec![0; usize::try_from(size).unwrap_or(usize::MAX)]);
    let mut request = Request::new(ServerSimpleSendRequest { message_id: String::new(), payload });
    metadata::write_link(request.metadata_mut(), ours);
    let answer = SimpleRequestServerClient::new(channel).server_simple_send(request).await;
    let answer =
        answer.map_err(|status| StoppedBy::There(format!("{:?}: {}", status.code(), status.message())))?;
    let answer = answer.into_inner();
    let why = answer.error_msg.unwrap_or_default();
    match answer.error_code {
        Some(code::INVALID_REQUEST) => Ok(()),
        Some(code::ACCESS_DENIED) => Err(StoppedBy::Us(why)),
        other => Err(StoppedBy::There(format!("an answer that was not expected: {other:?} {why}"))),
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = next.source();
    }
    words
}
