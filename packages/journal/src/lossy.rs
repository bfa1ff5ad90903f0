//! A disk in memory that loses what was not synced, for crash tests.
//!
//! At [`LossyDisk::crash`] every write since the last sync of its file survives whole, not at all,
//! or torn into sectors of 512 bytes; every name made, changed or removed since the last sync of
//! the folder survives or not. Writes and syncs can be made to fail. The same seed and the same
//! calls give the same losses.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

/// What a disk writes as a whole, or not at all.
pub const SECTOR: u64 = 512;

/// The disk. A clone is the same disk.
#[derive(Clone)]
pub struct LossyDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    random: u64,
    /// Files opened before the last crash are of no more use.
    life: u64,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// Names as the process sees them.
    names: BTreeMap<String, u64>,
    /// Names as of the last sync of the folder.
    synced_names: BTreeMap<String, u64>,
    /// Names that changed since.
    changed: Vec<NameChange>,
    calls_left: Option<u64>,
    room: Option<u64>,
    syncs_left: Option<u64>,
}

/// Names and what they stand for from now on.
type NameChange = Vec<(String, Option<u64>)>;

#[derive(Default)]
struct Content {
    /// As the process sees it.
    now: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    since: Vec<Change>,
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

impl LossyDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> LossyDisk {
        LossyDisk {
            inner: Arc::new(Mutex::new(Inner {
                random: seed,
                life: 0,
                files: BTreeMap::new(),
                next_file: 0,
                names: BTreeMap::new(),
                synced_names: BTreeMap::new(),
                changed: Vec::new(),
                calls_left: None,
                room: None,
                syncs_left: None,
            })),
        }
    }

    /// Loses power. Open files are dead; opening again shows what survived. Faults that were asked
    /// for are forgotten, except for the room.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        inner.life += 1;
        (inner.calls_left, inner.syncs_left) = (None, None);
        let mut names = std::mem::take(&mut inner.synced_names);
        for change in std::mem::take(&mut inner.changed) {
            if inner.coin() {
                apply_names(&mut names, change);
            }
        }
        inner.names = names.clone();
        inner.synced_names = names;
        let mut files = std::mem::take(&mut inner.files);
        files.retain(|file, _| inner.names.values().any(|named| named == file));
        for content in files.values_mut() {
            let mut survived = std::mem::take(&mut content.synced);
            for change in std::mem::take(&mut content.since) {
                inner.survive(&mut survived, change);
            }
            content.now = survived.clone();
            content.synced = survived;
        }
        inner.files = files;
    }

    /// Kills the process but not the power: open files are dead, nothing is lost. What was not
    /// synced still is not, and can be lost later.
    pub fn kill(&self) {
        let mut inner = self.inner.lock();
        inner.life += 1;
        (inner.calls_left, inner.syncs_left) = (None, None);
    }

    /// After so many more calls that change something every call fails, until the crash.
    pub fn lose_power_after(&self, calls: u64) {
        self.inner.lock().calls_left = Some(calls);
    }

    /// Files may grow by so many bytes more, together; `None` is without limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.inner.lock().room = bytes;
    }

    /// After so many more syncs one fails. Some of what it should have made durable is then lost
    /// for good, although reading still shows it and later syncs succeed.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.inner.lock().syncs_left = Some(syncs);
    }

    /// Changes one bit of a file, also of what is synced.
    pub fn flip(&self, name: &str, bit: u64) {
        self.damage(name, |bytes| {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Cuts a file, also what is synced of it.
    pub fn cut(&self, name: &str, len: u64) {
        self.damage(name, |bytes| bytes.truncate(len as usize));
    }

    /// The bytes of a file, as a process sees them.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner.lock();
        let content = inner.names.get(name).and_then(|file| inner.files.get(file));
        content.map(|content| content.now.clone()).unwrap_or_default()
    }

    /// A copy of the disk as a process sees it, all of it synced.
    pub fn copy(&self, seed: u64) -> LossyDisk {
        let copy = LossyDisk::new(seed);
        let inner = self.inner.lock();
        {
            let mut other = copy.inner.lock();
            other.names = inner.names.clone();
            other.synced_names = inner.names.clone();
            other.next_file = inner.next_file;
            for (file, content) in &inner.files {
                let (now, synced) = (content.now.clone(), content.now.clone());
                other.files.insert(*file, Content { now, synced, since: Vec::new() });
            }
        }
        copy
    }

    fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut inner = self.inner.lock();
        let file = inner.names.get(name).copied();
        if let Some(content) = file.and_then(|file| inner.files.get_mut(&file)) {
            change(&mut content.now);
            change(&mut content.synced);
        }
    }
}

fn apply_names(names: &mut BTreeMap<String, u64>, change: NameChange) {
    for (name, file) in change {
        match file {
            Some(file) => names.insert(name, file),
            None => names.remove(&name),
        };
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes: written } => {
            let (start, end) = (*offset as usize, *offset as usize + written.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(written);
        }
        Change::Length(len) => bytes.resize(*len as usize, 0),
    }
}

impl Inner {
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next_random() & 1 == 0
    }

    /// Lets a write reach the disk whole, not at all, or in part.
    fn survive(&mut self, bytes: &mut Vec<u8>, change: Change) {
        let Change::Write { offset, bytes: written } = change else {
            if self.coin() {
                apply(bytes, &change);
            }
            return;
        };
        match self.next_random() % 4 {
            0 => {}
            1 => apply(bytes, &Change::Write { offset, bytes: written }),
            _ => {
                let mut at = 0;
                while at < written.len() {
                    let place = offset + at as u64;
                    let sector_end = (place / SECTOR + 1) * SECTOR;
                    let end = written.len().min(at + (sector_end - place) as usize);
                    if self.coin() {
                        let bytes_here = written[at..end].to_vec();
                        apply(bytes, &Change::Write { offset: place, bytes: bytes_here });
                    }
                    at = end;
                }
            }
        }
    }

    fn call(&mut self, life: u64) -> io::Result<()> {
        self.alive(life)?;
        if let Some(left) = &mut self.calls_left {
            if *left == 0 {
                return Err(io::Error::other("the power is lost"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn alive(&self, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("the file was opened before the power was lost"));
        }
        Ok(())
    }

    fn content(&mut self, file: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn grow(&mut self, file: u64, end: u64) -> io::Result<()> {
        let more = end.saturating_sub(self.content(file)?.now.len() as u64);
        if let Some(room) = &mut self.room {
            if more > *room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= more;
        }
        Ok(())
    }

    fn change(&mut self, file: u64, change: Change) -> io::Result<()> {
        let content = self.content(file)?;
        apply(&mut content.now, &change);
        content.since.push(change);
        Ok(())
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        let fails = self.syncs_left == Some(0);
        self.syncs_left = match self.syncs_left {
            Some(0) | None => None,
            Some(left) => Some(left - 1),
        };
        let content = self.content(file)?;
        let (since, mut synced) =
            (std::mem::take(&mut content.since), std::mem::take(&mut content.synced));
        for change in since {
            if fails {
                self.survive(&mut synced, change);
            } else {
                apply(&mut synced, &change);
            }
        }
        self.content(file)?.synced = synced;
        if fails { Err(io::Error::other("the disk refused to sync")) } else { Ok(()) }
    }

    fn rename_all(&mut self, change: NameChange) {
        apply_names(&mut self.names, change.clone());
        self.changed.push(change);
    }
}

impl Disk for LossyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.call(life)?;
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(file, Content::default());
        inner.rename_all(vec![(name.into(), Some(file))]);
        Ok(Arc::new(LossyFile { inner: Arc::clone(&self.inner), file, life }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.lock();
        let file = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(LossyFile { inner: Arc::clone(&self.inner), file, life: inner.life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.call(life)?;
        let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.rename_all(vec![(from.into(), None), (to.into(), Some(file))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.call(life)?;
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename_all(vec![(name.into(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.call(life)?;
        inner.synced_names = inner.names.clone();
        inner.changed.clear();
        Ok(())
    }
}

struct LossyFile {
    inner: Arc<Mutex<Inner>>,
    file: u64,
    life: u64,
}

impl DiskFile for LossyFile {
    fn len(&self) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        inner.alive(self.life)?;
        Ok(inner.content(self.file)?.now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call(self.life)?;
        inner.grow(self.file, len)?;
        inner.change(self.file, Change::Length(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call(self.life)?;
        inner.grow(self.file, len)?;
        if (inner.content(self.file)?.now.len() as u64) < len {
            inner.change(self.file, Change::Length(len))?;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call(self.life)?;
        inner.grow(self.file, offset + bytes.len() as u64)?;
        inner.change(self.file, Change::Write { offset, bytes: bytes.to_vec() })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.inner.lock();
        inner.alive(self.life)?;
        let now = &inner.content(self.file)?.now;
        let start = now.len().min(offset as usize);
        let len = bytes.len().min(now.len() - start);
        bytes[..len].copy_from_slice(&now[start..start + len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.call(self.life)?;
        inner.sync(self.file)
    }
}
