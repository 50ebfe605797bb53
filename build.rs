//! Compiles `protos/` in pure Rust: no `protoc` on the machine.

/// What the command line and the status page also show as JSON.
const SHOWN: [&str; 18] = [
    "StatusResponse",
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
    "TrackResponse",
    "Life",
    "Event",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(
        [
            "petnet/simple.proto",
            "petnet/health.proto",
            "petnet/peer.proto",
            "petnet/mailbox.proto",
            "petnet/admin.proto",
        ],
        ["protos"],
    )?;
    println!("cargo:rerun-if-changed=protos");
    let mut generate = tonic_prost_build::configure().bytes(".");
    for shown in SHOWN {
        generate = generate.type_attribute(format!("petnet.admin.v1.{shown}"), "#[derive(serde::Serialize)]");
    }
    generate.compile_fds(files)?;
    Ok(())
}
