//! The code that is checked in is what the `.proto` files say.

use std::path::Path;

/// Messages of the operator's service that the command line and the status page also show as JSON.
const SHOWN: [&str; 20] = [
    "StatusResponse",
    "RefusedReload",
    "Certificate",
    "Store",
    "Peer",
    "Mailbox",
    "DeadLetters",
    "Process",
    "Rates",
    "ListPendingResponse",
    "PendingMessage",
    "Changed",
    "ListDeadResponse",
    "DeadLetter",
    "ListMailboxResponse",
    "HeldMessage",
    "SenderChange",
    "TrackResponse",
    "Life",
    "Event",
];
const FILES: [&str; 5] = ["simple", "health", "peer", "mailbox", "admin"];

/// Generates into a folder, in pure Rust: no `protoc` on the machine.
fn generate(folder: &Path) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = FILES.map(|name| format!("petnet/{name}.proto"));
    let compiled = protox::compile(files, [protos]).expect("the .proto files are right");
    let mut builder =
        tonic_prost_build::configure().bytes(".").codec_path("crate::codec::Protobuf").out_dir(folder);
    for shown in SHOWN {
        builder = builder.type_attribute(format!("petnet.admin.v1.{shown}"), "#[derive(serde::Serialize)]");
    }
    builder.compile_fds(compiled).expect("generates");
}

#[test]
fn the_code_that_is_checked_in_is_what_the_proto_files_say() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    if std::env::var_os("PETNET_WRITE_PROTOS").is_some() {
        generate(&kept);
    }
    let folder = tempfile::tempdir().expect("a folder");
    generate(folder.path());
    for name in FILES {
        let file = format!("petnet.{name}.v1.rs");
        let [made, kept] =
            [folder.path(), &kept].map(|dir| std::fs::read_to_string(dir.join(&file)).unwrap_or_default());
        assert!(
            made == kept,
            "src/generated/{file} is not what protos/petnet/{name}.proto gives: run PETNET_WRITE_PROTOS=1 cargo test -p petnet-protos"
        );
    }
}
