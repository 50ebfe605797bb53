//! The commands against a gateway that the test plays: what they ask for, what they make of the answers, and how they end.
//! What they print is tested beside each of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::cli::terminal::exit::Exit;
use crate::cli::{Arguments, SubCommand};
use crate::proto::admin::admin_server::{Admin, AdminServer};
use crate::proto::admin::*;
use crate::wire::admin_socket;

/// Number of letters that the played gateway has; more than a page.
const LETTERS: u64 = 1003;
/// A letter that it cannot read.
const DAMAGED: u64 = 500;
/// A letter that is in the list and gone when it is asked for.
const GONE: u64 = 501;

type PlayedAnswer<T> = Result<Response<T>, Status>;

/// A played gateway that writes down what it is asked for.
#[derive(Clone, Default)]
struct PlayedGateway {
    asked: Arc<Mutex<Vec<String>>>,
    state: String,
}

impl PlayedGateway {
    #[allow(clippy::unnecessary_wraps, reason = "what a call gives")]
    fn changed(&self, request: &impl std::fmt::Debug) -> PlayedAnswer<Changed> {
        self.asked.lock().push(format!("{request:?}"));
        Ok(Response::new(Changed { messages: 1, text: "done".into(), failed: 0 }))
    }
}

fn letter(sequence: u64) -> DeadLetter {
    DeadLetter {
        sequence,
        peer: "b".into(),
        message_id: format!("m{sequence}"),
        len: 10,
        reason: "expired".into(),
        reason_text: String::new(),
        ..DeadLetter::default()
    }
}

/// The items after a place, and where the next page begins.
fn page<T>(all: Vec<T>, number: impl Fn(&T) -> u64, after: u64, limit: u32) -> (Vec<T>, Option<u64>) {
    let limit = if limit == 0 { 100 } else { limit as usize };
    let mut rest: Vec<T> = all.into_iter().filter(|item| number(item) > after).collect();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let next = rest.last().map(number).filter(|_| more);
    (rest, next)
}

#[tonic::async_trait]
impl Admin for PlayedGateway {
    async fn status(&self, _: Request<StatusRequest>) -> PlayedAnswer<StatusResponse> {
        let peer = |name: &str, pending| Peer { party: name.into(), pending, ..Peer::default() };
        let peers = vec![peer("b", 1), peer("idle", 0)];
        let state = self.state.clone();
        Ok(Response::new(StatusResponse { party: "a".into(), state, peers, ..StatusResponse::default() }))
    }

    async fn list_pending(&self, request: Request<ListPendingRequest>) -> PlayedAnswer<ListPendingResponse> {
        let request = request.into_inner();
        self.asked.lock().push(format!("{request:?}"));
        if request.prefix == "rare" {
            let message =
                PendingMessage { peer: "b".into(), sequence: request.after + 1, ..PendingMessage::default() };
            return Ok(Response::new(ListPendingResponse {
                messages: vec![message],
                next: Some(request.after + 1000),
            }));
        }
        if request.peer == "nobody" {
            return Ok(Response::new(ListPendingResponse::default()));
        }
        let message = |sequence| PendingMessage { peer: "b".into(), sequence, ..PendingMessage::default() };
        let (messages, next) =
            page((1..=5).map(message).collect(), |m| m.sequence, request.after, request.limit);
        Ok(Response::new(ListPendingResponse { messages, next }))
    }

    async fn retry_pending(&self, request: Request<RetryPendingRequest>) -> PlayedAnswer<Changed> {
        self.changed(&request.into_inner())
    }

    async fn drop_pending(&self, request: Request<DropPendingRequest>) -> PlayedAnswer<Changed> {
        self.changed(&request.into_inner())
    }

    async fn pause(&self, request: Request<PauseRequest>) -> PlayedAnswer<Changed> {
        self.changed(&("pause", request.into_inner()))
    }

    async fn resume(&self, request: Request<PauseRequest>) -> PlayedAnswer<Changed> {
        self.changed(&("resume", request.into_inner()))
    }

    async fn list_dead(&self, request: Request<ListDeadRequest>) -> PlayedAnswer<ListDeadResponse> {
        let ListDeadRequest { after, limit, peer } = request.into_inner();
        if peer == "rare" {
            self.asked.lock().push(format!("dead {after} {limit}"));
            // Of every thousand letters that it looks at, one is wanted.
            let letters = (after % 2000 == 0).then(|| letter(after + 1)).into_iter().collect();
            return Ok(Response::new(ListDeadResponse { letters, next: Some(after + 1000) }));
        }
        let there = (1..=LETTERS).filter(|n| *n != GONE || limit != 1).map(letter).collect();
        let (letters, next) = page(there, |l| l.sequence, after, limit);
        Ok(Response::new(ListDeadResponse { letters, next }))
    }

    async fn retry_dead(&self, request: Request<DeadRequest>) -> PlayedAnswer<Changed> {
        self.changed(&request.into_inner())
    }

    async fn drop_dead(&self, request: Request<DeadRequest>) -> PlayedAnswer<Changed> {
        self.changed(&request.into_inner())
    }

    async fn list_mailbox(&self, request: Request<ListMailboxRequest>) -> PlayedAnswer<ListMailboxResponse> {
        let ListMailboxRequest { prefix, after, limit, .. } = request.into_inner();
        let held = |sequence: u64| HeldMessage {
            sender: format!("s{sequence}"),
            // The id that is looked for, among others that begin with it.
            message_id: if sequence.is_multiple_of(1000) { "m".into() } else { format!("m{sequence}") },
            sequence,
            len: 10,
            ..HeldMessage::default()
        };
        let all = (1..2500).map(held).filter(|m| m.message_id.starts_with(&prefix)).collect();
        let (messages, next) = page(all, |m| m.sequence, after, limit);
        Ok(Response::new(ListMailboxResponse { messages, next }))
    }

    async fn release_mailbox(&self, request: Request<ReleaseMailboxRequest>) -> PlayedAnswer<Changed> {
        self.changed(&request.into_inner())
    }

    type PayloadStream = tokio_stream::Iter<std::vec::IntoIter<Result<PayloadPiece, Status>>>;

    async fn payload(&self, request: Request<PayloadRequest>) -> PlayedAnswer<Self::PayloadStream> {
        let request = request.into_inner();
        self.asked.lock().push(format!("{request:?}"));
        let first = PayloadPiece { len: 10, payload: Bytes::from("01234"), ..PayloadPiece::default() };
        let second = PayloadPiece { payload: Bytes::from("56789"), ..PayloadPiece::default() };
        let pieces = match request.which {
            Some(payload_request::Which::Dead(DAMAGED)) => vec![Ok(first), Err(Status::data_loss("damaged"))],
            Some(payload_request::Which::Dead(GONE)) => return Err(Status::not_found("gone")),
            Some(payload_request::Which::Pending(5)) => vec![Ok(first)],
            _ => vec![Ok(first), Ok(second)],
        };
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn track(&self, request: Request<TrackRequest>) -> PlayedAnswer<TrackResponse> {
        let life = |state: &str, sequence| Life {
            direction: "sent".into(),
            state: state.into(),
            sequence,
            ..Life::default()
        };
        let lives = match request.into_inner().message_id.as_str() {
            "unknown" => Vec::new(),
            _ => vec![life("pending", 3), life("delivered", 9)],
        };
        Ok(Response::new(TrackResponse { lives }))
    }
}

/// A folder on which a played gateway runs.
struct PlayedFolder {
    dir: tempfile::TempDir,
    fake: PlayedGateway,
}

impl PlayedFolder {
    fn new(state: &str) -> Self {
        let (dir, fake) =
            (tempfile::tempdir().unwrap(), PlayedGateway { state: state.into(), ..PlayedGateway::default() });
        let listener = UnixListener::bind(dir.path().join(admin_socket::NAME)).unwrap();
        let server = Server::builder().add_service(AdminServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { dir, fake }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a command; returns how it ends.
    async fn run(&self, line: &str) -> Exit {
        run(line, self.dir.path()).await
    }

    /// The last thing that the gateway was asked for.
    fn last(&self) -> String {
        self.fake.asked.lock().last().cloned().unwrap_or_default()
    }
}

async fn run(line: &str, folder: &Path) -> Exit {
    let folder = folder.display().to_string();
    let words = ["petnet"].into_iter().chain(line.split(' ')).chain(["--data-dir", &folder]);
    crate::cli::reported(match Arguments::try_parse_from(words).unwrap().command {
        SubCommand::Status(status) => status.run().await,
        SubCommand::Queue(queue) => queue.run().await,
        SubCommand::Dead(dead) => dead.run().await,
        SubCommand::Mailbox(mailbox) => mailbox.run().await,
        SubCommand::Track(track) => track.run().await,
        _ => panic!("{line}"),
    })
}

#[tokio::test]
async fn a_status_ends_as_the_gateway_is() {
    for (state, exit) in [("serving", Exit::Ok), ("poisoned", Exit::Failed), ("stalled", Exit::Failed)] {
        let place = PlayedFolder::new(state);
        assert_eq!(place.run("status").await, exit, "{state}");
        assert_eq!(place.run("status --json").await, exit, "{state}");
    }
}

#[tokio::test]
async fn without_a_gateway_every_command_fails_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("letters");
    let export = format!("dead export {}", to.display());
    for line in
        ["status", "queue ls", "queue drop b --all --yes", "dead ls", "mailbox ls", "track m", &export]
    {
        assert_eq!(run(line, dir.path()).await, Exit::Failed, "{line}");
    }
    assert!(!to.exists());
}

#[tokio::test]
async fn changes_ask_for_what_was_said_and_lose_nothing_without_a_yes() {
    let place = PlayedFolder::new("serving");
    for (line, asked) in [
        ("queue retry", r#"RetryPendingRequest { peer: "" }"#),
        ("queue retry b --json", r#"RetryPendingRequest { peer: "b" }"#),
        ("queue pause b", r#"("pause", PauseRequest { peer: "b" })"#),
        ("queue resume b", r#"("resume", PauseRequest { peer: "b" })"#),
        (
            "queue drop b m n --yes",
            r#"DropPendingRequest { peer: "b", sequences: [], message_ids: ["m", "n"], all: false }"#,
        ),
        (
            "queue drop b --sequence 1 2 --yes",
            r#"DropPendingRequest { peer: "b", sequences: [1, 2], message_ids: [], all: false }"#,
        ),
        (
            "queue drop b --all --yes",
            r#"DropPendingRequest { peer: "b", sequences: [], message_ids: [], all: true }"#,
        ),
        ("dead retry 1 #2", r#"DeadRequest { sequences: [1, 2], all: false, peer: "" }"#),
        ("dead drop --all --peer b --yes", r#"DeadRequest { sequences: [], all: true, peer: "b" }"#),
        (
            "mailbox release m --sender b --yes",
            r#"ReleaseMailboxRequest { sender: "b", which: Some(MessageId("m")) }"#,
        ),
        (
            "mailbox release --prefix m/ --yes",
            r#"ReleaseMailboxRequest { sender: "", which: Some(Prefix("m/")) }"#,
        ),
    ] {
        assert_eq!((place.run(line).await, place.last()), (Exit::Ok, asked.to_owned()), "{line}");
        // Without --yes, and with nobody to ask.
        if let Some(line) = line.strip_suffix(" --yes") {
            let before = place.fake.asked.lock().len();
            assert!(place.run(line).await != Exit::Ok, "{line}");
            assert_eq!(place.fake.asked.lock().len(), before, "{line} was done");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_has_an_exit_code_of_its_own() {
    let place = PlayedFolder::new("serving");
    for line in [
        "queue ls nobody",
        "queue ls nobody --all",
        "queue show b #77",
        "queue show b unknown",
        "dead show 5000",
        "track unknown",
    ] {
        assert_eq!(place.run(line).await, Exit::NotThere, "{line}");
    }
    assert_eq!(place.run("mailbox show nothing").await, Exit::NotThere);
    assert_eq!(place.run("track m").await, Exit::Ok);
}

#[tokio::test]
async fn lists_go_through_every_page_when_everything_is_wanted() {
    let place = PlayedFolder::new("serving");
    assert_eq!(place.run("queue ls --limit 2").await, Exit::Ok);
    assert_eq!(place.last(), r#"ListPendingRequest { peer: "", prefix: "", after: 0, limit: 2 }"#);
    assert_eq!(place.run("queue ls b --prefix m --after 2").await, Exit::Ok);
    assert_eq!(place.last(), r#"ListPendingRequest { peer: "b", prefix: "m", after: 2, limit: 100 }"#);
    // Only peers with pending messages are asked for.
    assert_eq!(place.run("queue ls --all --json").await, Exit::Ok);
    assert_eq!(place.last(), r#"ListPendingRequest { peer: "b", prefix: "", after: 0, limit: 1000 }"#);
    for line in ["dead ls --all --json", "mailbox ls --all"] {
        assert_eq!(place.run(line).await, Exit::Ok, "{line}");
    }
}

/// A gateway looks at a limited number for one answer. A user who asks for ten still gets ten.
#[tokio::test]
async fn lists_go_on_until_there_are_as_many_as_are_wanted() {
    let place = PlayedFolder::new("serving");
    assert_eq!(place.run("dead ls --peer rare --limit 3").await, Exit::Ok);
    assert_eq!(place.last(), "dead 4000 1", "two were found before");
    assert_eq!(place.run("queue ls b --prefix rare --limit 3").await, Exit::Ok);
    assert_eq!(place.last(), r#"ListPendingRequest { peer: "b", prefix: "rare", after: 2000, limit: 1 }"#);
}

#[tokio::test]
async fn content_comes_whole_or_not_at_all() {
    let place = PlayedFolder::new("serving");
    let file = place.path("content");
    for line in ["queue show b #4", "queue show b m", "dead show 7", "mailbox show m"] {
        assert_eq!(place.run(&format!("{line} -o {file}")).await, Exit::Ok, "{line}");
        assert_eq!(fs::read(&file).unwrap(), b"0123456789");
        fs::remove_file(&file).unwrap();
    }
    // The newest of three under the id, named with its sender.
    assert!(place.last().contains("\"s2000\""), "{}", place.last());
    for line in ["queue show b #5", "dead show 500"] {
        assert_eq!(place.run(&format!("{line} -o {file}")).await, Exit::Failed, "{line}");
        assert!(!Path::new(&file).exists(), "{line} left a part");
    }
}

#[tokio::test]
async fn an_export_has_all_that_can_be_read_and_names_nothing_else() {
    let place = PlayedFolder::new("serving");
    let to = place.path("letters");
    // One of them is damaged: it is reported, and does not stop the rest.
    assert_eq!(place.run(&format!("dead export {to}")).await, Exit::Failed);
    let read = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(Path::new(&to).join("index.json")).unwrap()).unwrap()
    };
    let letters = read()["letters"].as_array().unwrap().clone();
    assert_eq!(letters.len() as u64, LETTERS - 2);
    for letter in &letters {
        assert!(letter["sequence"] != DAMAGED && letter["sequence"] != GONE);
        let file = Path::new(&to).join(letter["file"].as_str().unwrap());
        assert_eq!(fs::read(file).unwrap(), b"0123456789");
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), letters.len() + 1, "files without an entry");
    assert_eq!(letters[0]["sha256"], "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882");

    // The second time, only what was missing is fetched.
    place.fake.asked.lock().clear();
    assert_eq!(place.run(&format!("dead export {to} 1 2 3")).await, Exit::Ok);
    assert_eq!(place.fake.asked.lock().len(), 0);
    assert_eq!(place.run(&format!("dead export {to} 1 5000")).await, Exit::NotThere);
    assert_eq!(read()["letters"].as_array().unwrap(), &letters);
}
