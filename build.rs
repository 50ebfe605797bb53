//! Compiles `protos/` in pure Rust: no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(
        ["petnet/simple.proto", "petnet/health.proto", "petnet/peer.proto", "petnet/mailbox.proto"],
        ["protos"],
    )?;
    println!("cargo:rerun-if-changed=protos");
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
