//! The scripts that change and read what Redis keeps; each runs completely or not at all.

use std::sync::LazyLock;

/// A script, preceded by the part that all of them share.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) source: String,
    /// Hash by which Redis knows it.
    pub(crate) sha: String,
}

impl Script {
    fn new(body: &str) -> Self {
        let source = format!("{}{body}", include_str!("../lua/common.lua"));
        let sha = sha1_smol::Sha1::from(&source).digest().to_string();
        Self { source, sha }
    }
}

macro_rules! scripts {
    ($($name:ident $file:literal),* $(,)?) => {
        /// All scripts.
        #[derive(Debug)]
        pub(crate) struct Scripts { $(pub(crate) $name: Script),* }

        pub(crate) static SCRIPTS: LazyLock<Scripts> =
            LazyLock::new(|| Scripts { $($name: Script::new(include_str!($file))),* });

        impl Scripts {
            pub(crate) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&self.$name),*].into_iter()
            }
        }
    };
}

scripts! {
    at_once "../lua/at_once.lua",
    begin "../lua/begin.lua",
    bury "../lua/bury.lua",
    chunk "../lua/chunk.lua",
    chunks_gone "../lua/chunks_gone.lua",
    chunks_kept "../lua/chunks_kept.lua",
    fetch "../lua/fetch.lua",
    find "../lua/find.lua",
    known "../lua/known.lua",
    lease "../lua/lease.lua",
    letters "../lua/letters.lua",
    list "../lua/list.lua",
    load "../lua/load.lua",
    move_begin "../lua/move_begin.lua",
    move_end "../lua/move_end.lua",
    move_get "../lua/move_get.lua",
    move_list "../lua/move_list.lua",
    move_lock "../lua/move_lock.lua",
    move_put "../lua/move_put.lua",
    move_remember "../lua/move_remember.lua",
    names "../lua/names.lua",
    pause "../lua/pause.lua",
    peers "../lua/peers.lua",
    reads "../lua/reads.lua",
    release "../lua/release.lua",
    resolve "../lua/resolve.lua",
    sent "../lua/sent.lua",
    settle "../lua/settle.lua",
    settings "../lua/settings.lua",
    sign "../lua/sign.lua",
    status "../lua/status.lua",
    tick "../lua/tick.lua",
    topic "../lua/topic.lua",
    write "../lua/write.lua",
}
