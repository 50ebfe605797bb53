//! What happens to a disk from outside the store: copies, damage, files put back or taken away. None of it is counted
//! as an operation, and all of it is durable at once.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::content::Content;
use super::{ROOT, SimDisk, World, lock};

impl SimDisk {
    /// Until they are let go, no sync of a file whose name begins so comes back.
    pub fn hold_syncs_of(&self, names: &str) {
        lock(&self.syncs_held.0).push(names.into());
    }

    /// Lets the syncs go that are held by the same beginning of names.
    pub fn let_syncs_go(&self, names: &str) {
        lock(&self.syncs_held.0).retain(|held| held != names);
        self.syncs_held.1.notify_all();
    }

    pub(super) fn name_of(&self, node: u64) -> String {
        let world = lock(&self.world);
        let mut entries = world.dirs.values().flat_map(|dir| &dir.live);
        entries.find(|(_, at)| **at == node).map_or_else(String::new, |(name, _)| name.clone())
    }

    /// The disk as the next start finds it after a kill: what was written is there, what was not synced still is not.
    /// The store that had this disk writes to the old one, which nobody reads.
    pub fn after_kill(&self) -> Self {
        let world = lock(&self.world);
        let next = World {
            files: world.files.clone(),
            dirs: world.dirs.clone(),
            locked: HashSet::new(),
            operations: 0,
            syncs: 0,
            fault: super::Fault::None,
            without_power: false,
            ..*world
        };
        Self {
            world: Arc::new(Mutex::new(next)),
            syncs_held: Arc::default(),
            root: self.root.clone(),
            index: self.index.clone(),
        }
    }

    /// A copy, as after a kill, with its index elsewhere.
    pub fn with_index(&self, index: &Path) -> Self {
        Self { index: Some(index.into()), ..self.after_kill() }
    }

    /// Nothing will go wrong by itself.
    pub fn has_no_fault(&self) -> bool {
        lock(&self.world).fault == super::Fault::None
    }

    /// Names in a folder; none when there is no such folder.
    pub fn names(&self, dir: &Path) -> Vec<String> {
        let world = lock(&self.world);
        let Ok(node) = self.find_dir(&world, dir) else { return Vec::new() };
        world.dirs[&node].live.keys().cloned().collect()
    }

    /// All bytes of a file.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let world = lock(&self.world);
        let content = &world.files[&self.node(&world, path)].live;
        let mut bytes = vec![0; content.len as usize];
        content.read(&mut bytes, 0);
        bytes
    }

    /// Replaces bytes of a file, or makes it.
    pub fn put_bytes(&self, path: &Path, offset: u64, bytes: &[u8]) {
        self.tamper(path, |content| content.write(bytes, offset));
    }

    /// Cuts or extends a file.
    pub fn cut_file(&self, path: &Path, len: u64) {
        self.tamper(path, |content| content.set_len(len));
    }

    /// Makes a file hold these bytes and no others.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) {
        self.tamper(path, |content| {
            *content = Content::default();
            content.write(bytes, 0);
        });
    }

    /// Flips one bit.
    pub fn flip(&self, path: &Path, byte: u64, bit: u64) {
        self.tamper(path, |content| {
            let mut at = [0];
            assert_eq!(content.read(&mut at, byte), 1, "byte {byte} is in {}", path.display());
            content.write(&[at[0] ^ (1 << (bit % 8))], byte);
        });
    }

    /// Takes a file away.
    pub fn take_away(&self, path: &Path) {
        let mut world = lock(&self.world);
        let (dir, name) = self.place(&world, path).expect("the folder is there");
        let dir = world.dirs.get_mut(&dir).expect("a folder");
        dir.live.remove(&name).expect("the file is there");
        dir.durable.remove(&name);
    }

    fn node(&self, world: &World, path: &Path) -> u64 {
        let (dir, name) = self.place(world, path).expect("the folder is there");
        world.dirs[&dir].live[&name]
    }

    fn tamper(&self, path: &Path, work: impl Fn(&mut Content)) {
        let mut world = lock(&self.world);
        let (dir, name) = self.place(&world, path).expect("the folder is there");
        let next = world.next_node;
        let entries = world.dirs.get_mut(&dir).expect("a folder");
        let node = *entries.live.entry(name.clone()).or_insert(next);
        entries.durable.insert(name, node);
        world.next_node += u64::from(node == next);
        assert_ne!(node, ROOT, "a file");
        let file = world.files.entry(node).or_default();
        work(&mut file.live);
        work(&mut file.durable);
    }
}
