//! The status of a gateway as text.

use crate::cli::terminal::progress::bytes;
use crate::cli::terminal::table::{Align, Colour, Table, count, escape, many, or_dash, rate, seconds, time};
use crate::proto::admin::{Peer, Process, Rates, StatusResponse, Store};

/// Seconds before its expiry from which a certificate is worth a warning.
const SOON_SECONDS: i64 = 30 * 86_400;

pub(crate) fn text(found: &StatusResponse, colours: bool) -> String {
    let state = Colour::of(&found.state).paint(&escape(&found.state), colours);
    let why = if found.state_reason.is_empty() {
        String::new()
    } else {
        format!(": {}", escape(&found.state_reason))
    };
    let mut lines = vec![
        format!("{}, petnet {}: {state}{why}", escape(&found.party), escape(&found.version)),
        format!("up             {}, since {}", seconds(found.uptime_seconds), time(found.started_ms)),
        format!(
            "listens on     {}, {}",
            escape(&found.listen_addr),
            if found.tls { "TLS" } else { "plaintext" }
        ),
    ];
    lines.extend(refused(found, colours));
    if !found.http_addr.is_empty() {
        lines.push(format!("metrics        {}", escape(&found.http_addr)));
    }
    lines.extend(found.store.as_ref().map(store).unwrap_or_default());
    if let Some(mailbox) = &found.mailbox {
        let waiting = many(mailbox.waiting, "waiting receive", "waiting receives");
        let subscriptions = many(mailbox.subscriptions, "subscription", "subscriptions");
        let messages = many(mailbox.messages, "message", "messages");
        lines.push(format!("mailbox        {messages}; {waiting}, {subscriptions}"));
    }
    lines.push(dead_letters(found));
    lines.extend(found.rates.as_ref().map(rates));
    lines.extend(found.process.as_ref().map(process));
    lines.extend(certificates(found, colours));
    lines.push(String::new());
    lines.push(if found.peers.is_empty() { "No peers.".into() } else { peers(&found.peers, colours) });
    lines.join("\n")
}

/// Files on the disk that are not in force.
fn refused(found: &StatusResponse, colours: bool) -> impl Iterator<Item = String> {
    found.refused_reloads.iter().map(move |refused| {
        let what = match refused.what.as_str() {
            "party_file" => "the party file".into(),
            "certificates" => "our certificate".into(),
            other => escape(other),
        };
        let text = format!(
            "REFUSED        {what} on the disk, since {}; the former one is in force: {}",
            time(refused.since_ms),
            escape(&refused.why)
        );
        Colour::Bad.paint(&text, colours)
    })
}

fn store(s: &Store) -> Vec<String> {
    let mut of = String::new();
    if s.limit_bytes > 0 {
        of = format!(
            " of {}, {} still fit",
            bytes(s.limit_bytes),
            bytes(s.limit_bytes.saturating_sub(s.used_bytes))
        );
        if s.quota_bytes > 0 && s.quota_bytes != s.limit_bytes {
            of.extend([" (STORE_MAX_BYTES ", &bytes(s.quota_bytes), ", part of it kept free for records)"]);
        }
    }
    // The engines give it as a complete sentence, for the log.
    let means = s.accepted_means.trim_start_matches("accepted means: ");
    let mut lines = vec![
        format!("store          {} at {}", escape(&s.engine), escape(&s.place)),
        format!("accepted means {}", escape(means)),
    ];
    let mut used = format!("used           {}{of}", bytes(s.used_bytes));
    if s.disk_bytes > 0 {
        used.extend([
            "; ",
            &bytes(s.disk_bytes),
            " on disk, ",
            &bytes(s.reclaimable_bytes),
            " can be given back",
        ]);
    }
    if s.segments + s.spare_segments > 0 {
        used.extend([
            "; ",
            &many(s.segments, "segment", "segments"),
            ", ",
            &count(s.spare_segments),
            " spare",
        ]);
    }
    lines.push(used);
    if s.disk_total_bytes > 0 {
        lines.push(format!(
            "disk           {} free of {}",
            bytes(s.disk_free_bytes),
            bytes(s.disk_total_bytes)
        ));
    }
    if s.syncs > 0 {
        let (syncs, appends) = (many(s.syncs, "sync", "syncs"), many(s.appends, "record", "records"));
        let mut line = format!("syncs          {syncs} for {appends}");
        if s.sync_p50_seconds > 0.0 {
            let ms = |seconds: f64| format!("{:.1} ms", seconds * 1000.0);
            line.extend([
                "; last minute ",
                &ms(s.sync_p50_seconds),
                ", 99 % within ",
                &ms(s.sync_p99_seconds),
            ]);
        }
        lines.push(line);
    }
    if s.damaged > 0 {
        let places = many(s.damaged, "damaged place", "damaged places");
        lines.push(format!(
            "DAMAGE         {places}: look at the disk, then stop the gateway and `petnet repair`"
        ));
    }
    lines
}

fn dead_letters(found: &StatusResponse) -> String {
    let all: u64 = found.dead_letters.iter().map(|of| of.messages).sum();
    let by: Vec<String> = found
        .dead_letters
        .iter()
        .filter(|of| of.messages > 0)
        .map(|of| format!("{} {}", count(of.messages), escape(&of.reason)))
        .collect();
    match by.as_slice() {
        [] => "dead letters   none".into(),
        by => format!("dead letters   {}: {}", count(all), by.join(", ")),
    }
}

fn rates(r: &Rates) -> String {
    format!(
        "last minute    accepted {}, delivered {}, arrived {}, received {}",
        rate(r.accepted),
        rate(r.delivered),
        rate(r.arrived),
        rate(r.received)
    )
}

fn process(p: &Process) -> String {
    let connections = many(p.connections, "connection", "connections");
    let files = format!("{} of {} open files", count(p.open_files), count(p.open_files_limit));
    format!("process        {} of memory, {files}, {connections}", bytes(p.resident_bytes))
}

fn certificates(found: &StatusResponse, colours: bool) -> impl Iterator<Item = String> {
    let soon = found.certificates.iter().filter(|c| c.seconds_left < SOON_SECONDS);
    soon.map(move |c| {
        let name = escape(&c.name);
        let (colour, text) = match u64::try_from(c.seconds_left) {
            Ok(left) => (Colour::Notice, format!("{name} expires in {}", seconds(left))),
            Err(_) => {
                (Colour::Bad, format!("{name} HAS EXPIRED, {} ago", seconds(c.seconds_left.unsigned_abs())))
            }
        };
        format!("certificate    {}", colour.paint(&text, colours))
    })
}

fn peers(peers: &[Peer], colours: bool) -> String {
    let mut table = Table::new(&[
        ("peer", Align::Left),
        ("state", Align::Left),
        ("pending", Align::Right),
        ("size", Align::Right),
        ("oldest", Align::Right),
        ("in flight", Align::Right),
        ("delivers", Align::Right),
        ("delivered", Align::Right),
        ("received", Align::Right),
        ("last error", Align::Left),
    ]);
    for p in peers {
        let error = match p.last_error_ms {
            Some(at) if !p.last_error.is_empty() => format!("{} ({})", p.last_error, time(at)),
            _ => p.last_error.clone(),
        };
        let cells = [
            p.party.clone(),
            state(p),
            count(p.pending),
            bytes(p.pending_bytes),
            or_dash(p.oldest_seconds.map(seconds)),
            count(p.in_flight),
            rate(p.delivered_rate),
            count(p.delivered),
            count(p.received),
            error,
        ];
        table.row(&cells, Some(1));
    }
    table.render(colours)
}

fn state(p: &Peer) -> String {
    let mut state = p.state.clone();
    if let Some(since) = p.down_seconds {
        state.extend([" ", &seconds(since)]);
    }
    if let Some(next) = p.next_attempt_seconds {
        state.extend([", next try in ", &seconds(next)]);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::admin::{Certificate, DeadLetters, Mailbox, RefusedReload};

    fn status() -> StatusResponse {
        let peer = Peer { party: "party_b".into(), state: "idle".into(), delivered: 12, ..Peer::default() };
        StatusResponse {
            party: "party_a".into(),
            version: "0.1.0".into(),
            started_ms: 1_700_000_000_123,
            uptime_seconds: 7500,
            state: "refusing".into(),
            state_reason: "disk full\u{1b}[2J".into(),
            listen_addr: "[::]:1235".into(),
            http_addr: "127.0.0.1:1236".into(),
            certificates: vec![
                Certificate { name: "server.crt".into(), expires_ms: 0, seconds_left: -5 },
                Certificate { name: "party_b".into(), expires_ms: 0, seconds_left: 86_400 * 365 },
            ],
            store: Some(Store {
                engine: "embedded".into(),
                place: "/data".into(),
                accepted_means: "accepted means: synced to disk".into(),
                used_bytes: 5 << 20,
                limit_bytes: 896 << 20,
                quota_bytes: 1 << 30,
                disk_bytes: 64 << 20,
                disk_total_bytes: 40 << 30,
                disk_free_bytes: 20 << 30,
                segments: 1,
                spare_segments: 2,
                syncs: 1234,
                appends: 5678,
                sync_p50_seconds: 0.0008,
                sync_p99_seconds: 0.0032,
                ..Store::default()
            }),
            peers: vec![
                peer.clone(),
                Peer {
                    party: "party_long_name".into(),
                    state: "down".into(),
                    pending: 1_000_000,
                    pending_bytes: 3 << 30,
                    oldest_seconds: Some(7300),
                    down_seconds: Some(125),
                    next_attempt_seconds: Some(5),
                    last_error: "does not\nconnect".into(),
                    last_error_ms: Some(1_700_000_000_123),
                    ..peer
                },
            ],
            mailbox: Some(Mailbox { messages: 3, waiting: 1, subscriptions: 0 }),
            dead_letters: vec![
                DeadLetters { reason: "expired".into(), messages: 2 },
                DeadLetters { reason: "refused".into(), messages: 0 },
            ],
            process: Some(Process {
                resident_bytes: 50 << 20,
                open_files: 30,
                open_files_limit: 1024,
                connections: 4,
            }),
            rates: Some(Rates { accepted: 12.3, ..Rates::default() }),
            tls: true,
            refused_reloads: vec![RefusedReload {
                what: "party_file".into(),
                why: "party.json: no\nJSON".into(),
                since_ms: 1_700_000_000_123,
            }],
        }
    }

    #[test]
    fn a_status_reads_as_one_page() {
        let expected = "\
party_a, petnet 0.1.0: refusing: disk full\\u{1b}[2J
up             2 h 05 min, since 2023-11-14T22:13:20.123Z
listens on     [::]:1235, TLS
REFUSED        the party file on the disk, since 2023-11-14T22:13:20.123Z; the former one is in force: party.json: no\\nJSON
metrics        127.0.0.1:1236
store          embedded at /data
accepted means synced to disk
used           5.0 MiB of 896.0 MiB, 891.0 MiB still fit (STORE_MAX_BYTES 1.0 GiB, part of it kept free for records); 64.0 MiB on disk, 0 B can be given back; 1 segment, 2 spare
disk           20.0 GiB free of 40.0 GiB
syncs          1,234 syncs for 5,678 records; last minute 0.8 ms, 99 % within 3.2 ms
mailbox        3 messages; 1 waiting receive, 0 subscriptions
dead letters   2: 2 expired
last minute    accepted 12.3/s, delivered -, arrived -, received -
process        50.0 MiB of memory, 30 of 1,024 open files, 4 connections
certificate    server.crt HAS EXPIRED, 5 s ago

peer             state                              pending     size      oldest  in flight  delivers  delivered  received  last error
party_b          idle                                     0      0 B           -          0         -         12         0
party_long_name  down 2 min 05 s, next try in 5 s  1,000,000  3.0 GiB  2 h 01 min          0         -         12         0  does not\\nconnect (2023-11-14T22:13:20.123Z)";
        let expected = expected.replace(
            "state                              pending",
            "state                               pending",
        );
        let expected = expected.replace(
            "idle                                     0",
            "idle                                      0",
        );
        assert_eq!(text(&status(), false), expected);
    }

    #[test]
    fn states_have_colours_where_there_are_colours() {
        let shown = text(&status(), true);
        for part in ["\x1b[33mrefusing\x1b[0m", "\x1b[31mdown 2 min", "\x1b[32midle\x1b[0m"] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
    }

    #[test]
    fn json_has_the_names_of_the_protocol_and_the_bytes_as_they_are() {
        let json = serde_json::to_value(status()).unwrap_or_default();
        assert_eq!(json["peers"][1]["oldest_seconds"], 7300);
        assert_eq!(json["peers"][0]["oldest_seconds"], serde_json::Value::Null);
        assert_eq!(json["state_reason"], "disk full\u{1b}[2J");
    }
}
