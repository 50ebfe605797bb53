//! The scripts that change and read what Redis keeps; each runs whole or not at all.

use std::sync::LazyLock;

/// A script with what all of them share before it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) source: String,
    /// Name under which Redis keeps it.
    pub(super) sha: String,
}

impl Script {
    fn new(body: &str) -> Self {
        let source = format!("{}{body}", include_str!("lua/common.lua"));
        let sha = sha1_smol::Sha1::from(&source).digest().to_string();
        Self { source, sha }
    }
}

macro_rules! scripts {
    ($($name:ident $file:literal),* $(,)?) => {
        /// All of them.
        #[derive(Debug)]
        pub(super) struct Scripts { $(pub(super) $name: Script),* }

        pub(super) static SCRIPTS: LazyLock<Scripts> =
            LazyLock::new(|| Scripts { $($name: Script::new(include_str!($file))),* });

        impl Scripts {
            pub(super) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&self.$name),*].into_iter()
            }
        }
    };
}

scripts! {
    begin "lua/begin.lua",
    bury "lua/bury.lua",
    chunk "lua/chunk.lua",
    chunks_kept "lua/chunks_kept.lua",
    fetch "lua/fetch.lua",
    find "lua/find.lua",
    known "lua/known.lua",
    letters "lua/letters.lua",
    list "lua/list.lua",
    load "lua/load.lua",
    move_begin "lua/move_begin.lua",
    move_end "lua/move_end.lua",
    move_get "lua/move_get.lua",
    move_list "lua/move_list.lua",
    move_lock "lua/move_lock.lua",
    move_put "lua/move_put.lua",
    move_remember "lua/move_remember.lua",
    peers "lua/peers.lua",
    release "lua/release.lua",
    resolve "lua/resolve.lua",
    sent "lua/sent.lua",
    settle "lua/settle.lua",
    tick "lua/tick.lua",
    topic "lua/topic.lua",
    write "lua/write.lua",
}
