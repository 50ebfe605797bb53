//! The program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What the program is made of, relative to the top of the repository.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "protos", "src", "storage/Cargo.toml", "storage/src"];

/// `PETNET_BIN`, or the program that cargo put beside this test, which is built when it is missing or older than its
/// sources (cargo builds it for the tests of its own package only).
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("PETNET_BIN") {
        Some(path) => {
            fs::canonicalize(&path).unwrap_or_else(|why| panic!("PETNET_BIN={}: {why}", path.display()))
        }
        None => built(),
    })
}

fn built() -> PathBuf {
    // target/PROFILE/deps/this-test
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("petnet");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let newest = SOURCES.iter().map(|source| newest(&top.join(source))).max().unwrap();
    if fs::metadata(&program).and_then(|program| program.modified()).is_ok_and(|built| built >= newest) {
        return program;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "petnet", "--bin", "petnet", "--locked"]).current_dir(top);
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "cannot build petnet");
    program
}

/// Time of the last change of a file, or of anything in a folder.
fn newest(path: &Path) -> SystemTime {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| newest(&entry.unwrap().path()));
        return entries.max().unwrap_or(SystemTime::UNIX_EPOCH);
    }
    fs::metadata(path).unwrap().modified().unwrap()
}
