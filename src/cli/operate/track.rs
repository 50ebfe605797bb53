//! `petnet track`: the life of a message, as far as the gateway remembers it.

use anyhow::anyhow;
use petnet_storage::{MessageId, PartyId};

use crate::cli::operate::admin::{self, GatewayFolder, NotThere};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::progress;
use crate::cli::terminal::table::{
    Colour, bytes_in_full, colours, escape, many, milliseconds, seconds, time,
};
use crate::proto::admin::{Event, Life, TrackRequest};

/// Show the life of a message: accepted, synced, attempts that failed and why, delivered, read, released or expired.
///
/// Asks the gateway that runs on the data folder, for messages that it sent and for those that arrived. The state of a
/// message comes from its store; how that came about is remembered since its start, for the newest messages. Times are UTC,
/// with the time since the line before.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet track model/7 --data-dir /var/lib/petnet
  petnet track model/7 --party party_b --json

Exit codes: 0 shown, 1 failed or no gateway runs there, 2 wrong arguments, 5 nothing is known of such a message")]
pub(crate) struct Track {
    /// The message's id
    #[arg(value_name = "ID")]
    id: MessageId,
    /// Only to or from this party
    #[arg(long, value_name = "PARTY")]
    party: Option<PartyId>,
    /// Print JSON instead of text, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: GatewayFolder,
}

impl Track {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let mut client = self.folder.connect().await?;
        let party = self.party.as_ref().map(ToString::to_string).unwrap_or_default();
        let request = TrackRequest { message_id: self.id.to_string(), party };
        let found = admin::ask("cannot track the message", client.track(request)).await?;
        if found.lives.is_empty() {
            return Err(anyhow!(NotThere(format!("nothing is known of a message {:?}", self.id))));
        }
        if self.json {
            admin::print_json(&found)?;
        } else {
            let lives: Vec<String> = found.lives.iter().map(|life| text(life, colours())).collect();
            admin::print(&lives.join("\n\n"))?;
        }
        Ok(Exit::Ok)
    }
}

fn text(life: &Life, colours: bool) -> String {
    let mut lines = vec![heading(life, colours)];
    if life.events.is_empty() {
        lines.push(
            "  (how it came there is not remembered: it was before the gateway's last start, or long ago)"
                .into(),
        );
    }
    let mut before = None;
    for event in &life.events {
        lines.push(line(event, before, colours));
        before = Some(event.at_ms);
    }
    if life.state == "unknown" && !life.events.is_empty() {
        let died = life
            .events
            .iter()
            .rev()
            .find(|event| ["dead", "dropped", "retried"].contains(&event.what.as_str()));
        lines.push(if died.is_some_and(|event| event.what == "dead") {
            "  (its dead letter is gone: most likely it made room for newer ones, by DEAD_LETTER_MAX_BYTES; the gateway \
             keeps no record)"
                .into()
        } else {
            "  (ended; the gateway keeps no record how)".into()
        });
    }
    let reads = life.events.iter().filter(|event| event.what == "read").count() as u64;
    if reads > 1 {
        lines.push(format!("  read {}", many(reads, "time", "times")));
    }
    lines.join("\n")
}

fn heading(life: &Life, colours: bool) -> String {
    let party = match life.party.as_str() {
        "" => "a peer that does not say who it is".into(),
        party => escape(party),
    };
    let way = if life.direction == "received" { "received from" } else { "sent to" };
    let mut texts = vec![format!(
        "{way} {party}, #{}: {}",
        life.sequence,
        Colour::of(&life.state).paint(&escape(&life.state), colours)
    )];
    if !life.reason.is_empty() {
        texts.push(escape(&life.reason));
    }
    texts.extend(life.len.map(|len| format!("{} ({})", progress::bytes(len), bytes_in_full(len))));
    texts.extend(life.dead_seconds.map(|dead| format!("dead for {}", seconds(dead))));
    texts.extend(life.age_seconds.map(|age| format!("{} old", seconds(age))));
    texts.extend(life.expires_seconds.map(|left| format!("expires in {}", seconds(left))));
    texts.join(", ")
}

fn line(event: &Event, before: Option<u64>, colours: bool) -> String {
    let since = match before {
        None => String::new(),
        // The clock of the machine may have been set back.
        Some(before) if before > event.at_ms => format!("-{}", milliseconds(before - event.at_ms)),
        Some(before) => format!("+{}", milliseconds(event.at_ms - before)),
    };
    let failed = event.what == "attempt" && !event.detail.is_empty();
    let colour = if failed { Colour::Notice } else { Colour::of(&event.what) };
    let what = format!("{:<10}", escape(&event.what));
    let line = format!(
        "  {}  {since:>13}  {}  {}",
        time(event.at_ms),
        colour.paint(&what, colours),
        escape(&event.detail)
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64, what: &str, detail: &str) -> Event {
        Event { at_ms: 1_700_000_000_000 + at_ms, what: what.into(), detail: detail.into() }
    }

    #[test]
    fn a_life_reads_as_a_timeline() {
        let life = Life {
            direction: "sent".into(),
            party: "party_b".into(),
            sequence: 7,
            state: "delivered".into(),
            reason: String::new(),
            len: Some(2048),
            age_seconds: None,
            expires_seconds: None,
            dead_seconds: None,
            events: vec![
                event(0, "taken", ""),
                event(2, "synced", ""),
                event(5, "attempt", "no answer\u{1b}[2J"),
                event(65_005, "attempt", ""),
                event(65_001, "delivered", ""),
            ],
        };
        let expected = "\
sent to party_b, #7: delivered, 2.0 KiB (2,048 bytes)
  2023-11-14T22:13:20.000Z                 taken
  2023-11-14T22:13:20.002Z          +2 ms  synced
  2023-11-14T22:13:20.005Z          +3 ms  attempt     no answer\\u{1b}[2J
  2023-11-14T22:14:25.005Z   +1 min 05 s  attempt
  2023-11-14T22:14:25.001Z          -4 ms  delivered";
        let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let shown = text(&life, false);
        assert_eq!(squeezed(&shown), squeezed(expected));
        let words = ["taken", "synced", "attempt", "attempt", "delivered"];
        let lines = shown.lines().skip(1).zip(words);
        assert!(lines.clone().all(|(line, word)| line.find(word) == Some(43)), "{shown}");
        assert!(text(&life, true).contains("\x1b[33mattempt"));
    }

    #[test]
    fn reads_are_counted_and_what_is_not_remembered_is_said() {
        let mut life = Life {
            direction: "received".into(),
            party: String::new(),
            sequence: 1,
            state: "held".into(),
            reason: String::new(),
            len: Some(0),
            age_seconds: Some(5),
            expires_seconds: Some(3595),
            dead_seconds: None,
            events: vec![event(0, "arrived", ""), event(9, "read", "Receive"), event(10, "read", "Receive")],
        };
        let shown = text(&life, false);
        assert!(
            shown.starts_with("received from a peer that does not say who it is, #1: held, 0 B"),
            "{shown}"
        );
        assert!(
            shown.contains("5 s old, expires in 59 min 55 s") && shown.ends_with("read 2 times"),
            "{shown}"
        );
        life.state = "unknown".into();
        assert!(text(&life, false).contains("(ended; the gateway keeps no record how)"));
        life.events.push(event(11, "dead", "expired"));
        assert!(text(&life, false).contains("made room for newer ones, by DEAD_LETTER_MAX_BYTES"));
        life.events.push(event(12, "dropped", ""));
        assert!(text(&life, false).contains("keeps no record how"), "the operator's doing is told above");
        life.events.clear();
        assert!(!text(&life, false).contains("ended"));
        assert!(text(&life, false).contains("not remembered"));
    }
}
