//! A disk that keeps what was written apart from what is durable, and that fails or loses power where a test wants.
//!
//! * The content of a file is durable after `sync_data`, the entries of a folder after `sync_dir`; nothing else is.
//! * After the power went, every operation fails. [`SimDisk::after_power_cut`] is the disk as the next start finds it:
//!   what was durable, and, with a seed, any part of what was not: each write whole, not at all, its first sectors, or
//!   some of its sectors; each change of a folder or not.
//! * After a failed sync, what it should have covered is not covered by a later one either, as on Linux.
//!
//! Only operations that change something are counted; power lost before a read is power lost before the next write.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use petnet_storage::{Disk, DiskFile, OpenMode, RealDisk, Room};

mod content;
pub mod held;
pub mod store;
mod tamper;

pub use content::Rng;
use content::{Change, Content, apply_part};

const ROOT: u64 = 0;
const MIB: u64 = 1 << 20;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The power goes while the N-th operation runs.
    PowerCut {
        at: u64,
    },
    /// The N-th operation fails with an error of the operating system.
    Fail {
        at: u64,
        errno: i32,
        for_ever: bool,
    },
    /// The N-th sync of a file fails with EIO, the others do not.
    FailSync {
        at: u64,
    },
}

#[derive(Debug, Clone)]
enum EntryChange {
    Enter(String, u64),
    Leave(String),
    Rename { from: (u64, String), to: (u64, String), node: u64 },
}

#[derive(Debug, Clone, Default)]
struct FileNode {
    live: Content,
    durable: Content,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Default)]
struct DirNode {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<EntryChange>,
}

#[derive(Debug)]
struct World {
    files: HashMap<u64, FileNode>,
    dirs: HashMap<u64, DirNode>,
    locked: HashSet<u64>,
    next_node: u64,
    operations: u64,
    syncs: u64,
    fault: Fault,
    without_power: bool,
    full: bool,
    keep_failed: bool,
    total: u64,
}

/// The disk. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    /// Beginnings of the names of files whose syncs do not come back.
    syncs_held: Arc<(Mutex<Vec<String>>, Condvar)>,
    root: PathBuf,
    index: Option<PathBuf>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: u64,
    has_lock: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

impl World {
    /// Counts an operation; an error when it does not happen.
    fn operation(&mut self, is_sync: bool) -> io::Result<()> {
        if self.without_power {
            return Err(no_power());
        }
        self.operations += 1;
        self.syncs += u64::from(is_sync);
        match self.fault {
            Fault::PowerCut { at } if self.operations >= at => {
                self.without_power = true;
                Err(no_power())
            }
            Fault::Fail { at, errno, for_ever }
                if self.operations == at || for_ever && self.operations > at =>
            {
                Err(io::Error::from_raw_os_error(errno))
            }
            Fault::FailSync { at } if is_sync && self.syncs == at => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }

    fn dir_mut(&mut self, node: u64) -> io::Result<&mut DirNode> {
        self.dirs.get_mut(&node).ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    fn file_mut(&mut self, node: u64) -> &mut FileNode {
        self.files.entry(node).or_default()
    }

    fn change(&mut self, node: u64, change: Change) -> io::Result<()> {
        let grows = match &change {
            Change::Write(offset, data) => offset + data.len() as u64,
            Change::SetLen(len) => *len,
        } > self.file_mut(node).live.len;
        if self.without_power {
            return Err(no_power());
        }
        let happens = self.operation(false);
        if self.full && grows {
            return Err(io::Error::from_raw_os_error(28));
        }
        if happens.is_ok() || self.without_power {
            // Power that goes during a write leaves any part of it.
            let file = self.file_mut(node);
            file.live.apply(&change);
            file.pending.push(change);
        }
        happens
    }
}

impl SimDisk {
    /// An empty disk whose data folder is `root`; the index lives at `index` on a real file system, or nowhere.
    pub fn new(root: &Path, index: Option<PathBuf>) -> Self {
        let world = World {
            files: HashMap::new(),
            dirs: HashMap::from([(ROOT, DirNode::default())]),
            locked: HashSet::new(),
            next_node: 1,
            operations: 0,
            syncs: 0,
            fault: Fault::None,
            without_power: false,
            full: false,
            keep_failed: false,
            total: 512 * MIB,
        };
        Self { world: Arc::new(Mutex::new(world)), syncs_held: Arc::default(), root: root.into(), index }
    }

    pub fn set_fault(&self, fault: Fault) {
        lock(&self.world).fault = fault;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        lock(&self.world).operations
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        lock(&self.world).syncs
    }

    pub fn cut_power(&self) {
        lock(&self.world).without_power = true;
    }

    pub fn has_power(&self) -> bool {
        !lock(&self.world).without_power
    }

    /// Nothing has gone wrong yet.
    pub fn is_well(&self) -> bool {
        let world = lock(&self.world);
        match world.fault {
            Fault::None => true,
            Fault::PowerCut { .. } => !world.without_power,
            Fault::Fail { at, .. } => world.operations < at,
            Fault::FailSync { at } => world.syncs < at,
        }
    }

    /// While full, nothing can grow and there is no room.
    pub fn set_full(&self, full: bool) {
        lock(&self.world).full = full;
    }

    /// What a failed sync did not cover may still survive a power cut, in part.
    pub fn keep_writes_of_failed_syncs(&self) {
        lock(&self.world).keep_failed = true;
    }

    /// A disk with the same durable content and, with a seed, a part of the rest. Power is on.
    pub fn after_power_cut(&self, seed: Option<u64>) -> Self {
        let world = lock(&self.world);
        let mut rng = seed.map(Rng::new);
        let mut dirs = world.dirs.clone();
        for node in world.dirs.keys() {
            for change in &world.dirs[node].pending {
                if rng.as_mut().is_some_and(|r| r.chance(2)) {
                    apply_durably(&mut dirs, *node, change);
                }
            }
        }
        for dir in dirs.values_mut() {
            dir.pending.clear();
            dir.live = dir.durable.clone();
        }
        let kept = |(node, file): (&u64, &FileNode)| {
            let mut content = file.durable.clone();
            for change in &file.pending {
                if let Some(rng) = rng.as_mut() {
                    apply_part(&mut content, change, rng);
                }
            }
            (*node, FileNode { live: content.clone(), durable: content, pending: Vec::new() })
        };
        let files = world.files.iter().map(kept).collect();
        let next = World {
            files,
            dirs,
            locked: HashSet::new(),
            next_node: world.next_node,
            operations: 0,
            syncs: 0,
            fault: Fault::None,
            without_power: false,
            full: false,
            keep_failed: false,
            total: world.total,
        };
        Self {
            world: Arc::new(Mutex::new(next)),
            syncs_held: Arc::default(),
            root: self.root.clone(),
            index: self.index.clone(),
        }
    }

    fn is_real(&self, path: &Path) -> bool {
        self.index.as_ref().and_then(|i| i.parent()).is_some_and(|real| path.starts_with(real))
    }

    fn find_dir(&self, world: &World, path: &Path) -> io::Result<u64> {
        let inner = path.strip_prefix(&self.root).map_err(|_| io::ErrorKind::NotFound)?;
        let mut at = ROOT;
        for part in inner {
            let entries = &world.dirs.get(&at).ok_or(io::ErrorKind::NotADirectory)?.live;
            at = *entries.get(&*part.to_string_lossy()).ok_or(io::ErrorKind::NotFound)?;
        }
        world.dirs.contains_key(&at).then_some(at).ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// The folder of a path, and the name in it.
    fn place(&self, world: &World, path: &Path) -> io::Result<(u64, String)> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find_dir(world, parent)?, name.to_string_lossy().into_owned()))
    }
}

fn apply_durably(dirs: &mut HashMap<u64, DirNode>, dir: u64, change: &EntryChange) {
    let mut entries = |node: &u64, work: &dyn Fn(&mut BTreeMap<String, u64>)| {
        if let Some(dir) = dirs.get_mut(node) {
            work(&mut dir.durable);
        }
    };
    match change {
        EntryChange::Enter(name, node) => entries(&dir, &|e| {
            e.insert(name.clone(), *node);
        }),
        EntryChange::Leave(name) => entries(&dir, &|e| {
            e.remove(name);
        }),
        EntryChange::Rename { from, to, node } => {
            entries(&from.0, &|e| e.retain(|name, n| name != &from.1 || n != node));
            entries(&to.0, &|e| {
                e.insert(to.1.clone(), *node);
            });
        }
    }
}

impl Disk for SimDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if self.is_real(dir) {
            return RealDisk.list(dir);
        }
        let world = lock(&self.world);
        if world.without_power {
            return Err(no_power());
        }
        let node = self.find_dir(&world, dir)?;
        Ok(world.dirs[&node].live.keys().cloned().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if self.is_real(dir) {
            return RealDisk.create_dir(dir);
        }
        let mut world = lock(&self.world);
        if self.find_dir(&world, dir).is_ok() {
            return Ok(());
        }
        let (parent, name) = self.place(&world, dir)?;
        world.operation(false)?;
        let node = world.next_node;
        world.next_node += 1;
        world.dirs.insert(node, DirNode::default());
        let parent = world.dir_mut(parent)?;
        parent.live.insert(name.clone(), node);
        parent.pending.push(EntryChange::Enter(name, node));
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if self.is_real(path) {
            return RealDisk.open(path, mode);
        }
        let mut world = lock(&self.world);
        if world.without_power {
            return Err(no_power());
        }
        let (dir, name) = self.place(&world, path)?;
        let found = world.dirs[&dir].live.get(&name).copied();
        let node = match found {
            Some(node) => node,
            None if mode != OpenMode::Create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                world.operation(false)?;
                let node = world.next_node;
                world.next_node += 1;
                world.files.insert(node, FileNode::default());
                let parent = world.dir_mut(dir)?;
                parent.live.insert(name.clone(), node);
                parent.pending.push(EntryChange::Enter(name, node));
                node
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), node, has_lock: Mutex::new(false) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_real(from) {
            return RealDisk.rename(from, to);
        }
        let mut world = lock(&self.world);
        let (from, to) = (self.place(&world, from)?, self.place(&world, to)?);
        let node = *world.dirs[&from.0].live.get(&from.1).ok_or(io::ErrorKind::NotFound)?;
        world.operation(false)?;
        world.dir_mut(from.0)?.live.remove(&from.1);
        let target = world.dir_mut(to.0)?;
        target.live.insert(to.1.clone(), node);
        target.pending.push(EntryChange::Rename { from, to, node });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.is_real(path) {
            return RealDisk.remove(path);
        }
        let mut world = lock(&self.world);
        let (dir, name) = self.place(&world, path)?;
        if !world.dirs[&dir].live.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.operation(false)?;
        let dir = world.dir_mut(dir)?;
        dir.live.remove(&name);
        dir.pending.push(EntryChange::Leave(name));
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_tree(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.is_real(dir) {
            return RealDisk.sync_dir(dir);
        }
        let mut world = lock(&self.world);
        let node = self.find_dir(&world, dir)?;
        world.operation(false)?;
        let changes = std::mem::take(&mut world.dir_mut(node)?.pending);
        for change in &changes {
            apply_durably(&mut world.dirs, node, change);
        }
        Ok(())
    }

    fn room(&self, _: &Path) -> io::Result<Room> {
        let world = lock(&self.world);
        let used: u64 = world.files.values().map(|f| f.live.len).sum();
        let available = if world.full { 0 } else { world.total.saturating_sub(used) };
        Ok(Room { available, total: world.total })
    }

    fn index_dir(&self, _: &Path) -> Option<PathBuf> {
        self.index.clone()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = lock(&self.disk.world);
        if world.without_power {
            return Err(no_power());
        }
        Ok(world.file_mut(self.node).live.read(buf, offset))
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        lock(&self.disk.world).change(self.node, Change::Write(offset, data))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let longer = self.len()?.max(len);
        lock(&self.disk.world).change(self.node, Change::SetLen(longer))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.disk.world).change(self.node, Change::SetLen(len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.disk.world).file_mut(self.node).live.len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (held, let_go) = &*self.disk.syncs_held;
        let name = self.disk.name_of(self.node);
        let is_held = |held: &mut Vec<String>| held.iter().any(|names| name.starts_with(names.as_str()));
        drop(let_go.wait_while(lock(held), is_held));
        let mut world = lock(&self.disk.world);
        let happens = world.operation(true);
        if world.without_power || happens.is_err() && world.keep_failed {
            return happens;
        }
        let file = world.file_mut(self.node);
        // A failed sync forgets what it should have covered.
        for change in std::mem::take(&mut file.pending) {
            if happens.is_ok() {
                file.durable.apply(&change);
            }
        }
        happens
    }

    fn try_lock(&self) -> io::Result<bool> {
        let free = lock(&self.disk.world).locked.insert(self.node);
        *lock(&self.has_lock) |= free;
        Ok(free)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if *lock(&self.has_lock) {
            lock(&self.disk.world).locked.remove(&self.node);
        }
    }
}
