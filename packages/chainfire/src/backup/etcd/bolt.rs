//! Reads a bbolt database, the file format of etcd's storage.
//!
//! A file is pages of equal size; the first two are metas, of which the one with the higher
//! transaction counts, if its checksum is right. A bucket is a B+tree of branch and leaf pages, or
//! one leaf inside its parent's value. Numbers are little-endian, as on every machine that etcd is
//! built for.
//!
//! What must stay true: every offset is checked against its page and every page against the file;
//! a walk ends whatever the pages say (each counts once against the number there is, and the depth
//! is bounded); memory is bounded by what was really read.

use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
const META: usize = 64;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const IS_BUCKET: u32 = 0x01;
/// A tree of the largest file that etcd admits has half as many levels.
const DEPTH: usize = 24;
/// A page with its overflow is larger only by the largest request that etcd can be set to take.
const PAGE_MAX: usize = 256 << 20;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoltError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is none, or damaged.
    #[error("the bbolt database is damaged: {0}")]
    Damaged(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, BoltError> {
    Err(BoltError::Damaged(what.into()))
}

/// A database, opened for reading.
pub(crate) struct Bolt {
    file: File,
    page_size: usize,
    /// Pages in the file, as far as the database uses them.
    pages: u64,
    root: u64,
}

/// Where a bucket's pairs are.
#[derive(Debug, Clone)]
pub(crate) enum Bucket {
    /// In the tree below a page.
    Tree(u64),
    /// In a page inside the file, at this offset.
    Inline(u64, Vec<u8>),
}

/// One pair of a leaf; `at` is where the value lies in the file.
pub(crate) struct Pair<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) at: u64,
    bucket: bool,
}

impl Bolt {
    /// Whether a file that begins like this may be a database; of the first 24 bytes.
    pub(crate) fn is(start: &[u8]) -> bool {
        number(start, PAGE_HEADER) == Some(MAGIC)
    }

    /// Opens a file of which the first `size` bytes are the database.
    pub(crate) fn open(file: File, size: u64) -> Result<Bolt, BoltError> {
        // The second meta lies after one page, whose size only a meta says.
        let mut metas: Vec<Meta> = meta_at(&file, size, 0)?.into_iter().collect();
        let sizes = metas.iter().map(|meta| meta.page_size).collect::<Vec<_>>();
        let sizes = if sizes.is_empty() { (9..=16).map(|n| 1 << n).collect() } else { sizes };
        for page_size in sizes {
            let second = meta_at(&file, size, page_size as u64)?;
            metas.extend(second.filter(|meta| meta.page_size == page_size));
        }
        let Some(meta) = metas.into_iter().max_by_key(|meta| meta.transaction) else {
            return damaged("neither of its first two pages is right");
        };
        let pages = meta.pages.min(size / meta.page_size as u64);
        if meta.pages > pages {
            return damaged(format!("it has {pages} pages and should have {}", meta.pages));
        }
        Ok(Bolt { file, page_size: meta.page_size, pages, root: meta.root })
    }

    /// A bucket of the top level.
    pub(crate) fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        let mut found = None;
        self.each(&Bucket::Tree(self.root), &mut |pair| {
            if pair.bucket && pair.key == name {
                let (Some(root), true) = (long(pair.value, 0), pair.value.len() >= BUCKET_HEADER)
                else {
                    return damaged("a bucket without a header");
                };
                found = Some(match root {
                    0 => Bucket::Inline(
                        pair.at + BUCKET_HEADER as u64,
                        pair.value[BUCKET_HEADER..].to_vec(),
                    ),
                    page => Bucket::Tree(page),
                });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Visits the pairs of a bucket, in the order of keys.
    pub(crate) fn each(
        &self,
        bucket: &Bucket,
        visit: &mut dyn FnMut(Pair<'_>) -> Result<(), BoltError>,
    ) -> Result<(), BoltError> {
        let mut last: Option<Vec<u8>> = None;
        let mut ordered = |pair: Pair<'_>| {
            if last.as_ref().is_some_and(|last| last[..] >= *pair.key) {
                return damaged("its keys are out of order");
            }
            let room = last.get_or_insert_default();
            room.clear();
            room.extend_from_slice(pair.key);
            visit(pair)
        };
        match bucket {
            Bucket::Inline(at, page) => leaf(page, *at, &mut ordered),
            Bucket::Tree(root) => self.walk(*root, DEPTH, &mut self.pages.clone(), &mut ordered),
        }
    }

    fn walk(
        &self,
        id: u64,
        depth: usize,
        left: &mut u64,
        visit: &mut dyn FnMut(Pair<'_>) -> Result<(), BoltError>,
    ) -> Result<(), BoltError> {
        if depth == 0 || *left == 0 {
            return damaged("its pages form no tree");
        }
        *left -= 1;
        let (at, page) = self.page(id)?;
        match flags(&page) {
            LEAF => leaf(&page, at, visit),
            BRANCH => {
                for n in 0..count(&page) {
                    let element = PAGE_HEADER + n * ELEMENT;
                    let Some(child) = long(&page, element + 8) else {
                        return damaged("a branch is cut");
                    };
                    self.walk(child, depth - 1, left, visit)?;
                }
                Ok(())
            }
            other => damaged(format!("page {id} is of kind {other:#x}")),
        }
    }

    /// A page with its overflow, and where it lies.
    fn page(&self, id: u64) -> Result<(u64, Vec<u8>), BoltError> {
        // The metas are no part of a tree.
        if !(2..self.pages).contains(&id) {
            return damaged(format!("there is no page {id}"));
        }
        let at = id * self.page_size as u64;
        let mut page = self.read(at, self.page_size)?;
        let (own, overflow) = (long(&page, 0), number(&page, 12).unwrap_or(0));
        if own != Some(id) {
            return damaged(format!("page {id} says that it is another"));
        }
        let beyond = u64::from(overflow) * self.page_size as u64;
        if u64::from(overflow) >= self.pages - id || beyond as usize > PAGE_MAX {
            return damaged(format!("page {id} goes on beyond the end"));
        }
        if overflow > 0 {
            page.extend(self.read(at + self.page_size as u64, beyond as usize)?);
        }
        Ok((at, page))
    }

    /// Bytes of the file.
    pub(crate) fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, BoltError> {
        let end = at.checked_add(bytes as u64);
        if bytes > PAGE_MAX || end.is_none_or(|end| end > self.pages * self.page_size as u64) {
            return damaged("a value lies beyond the end");
        }
        let mut out = vec![0; bytes];
        self.file.read_exact_at(&mut out, at)?;
        Ok(out)
    }
}

struct Meta {
    page_size: usize,
    root: u64,
    pages: u64,
    transaction: u64,
}

/// A meta, if there is a right one at this place.
fn meta_at(file: &File, size: u64, at: u64) -> Result<Option<Meta>, BoltError> {
    if at + (PAGE_HEADER + META) as u64 > size {
        return Ok(None);
    }
    let mut page = [0; PAGE_HEADER + META];
    file.read_exact_at(&mut page, at)?;
    let meta = &page[PAGE_HEADER..];
    let (int, word) = (|at| number(meta, at).unwrap_or(0), |at| long(meta, at).unwrap_or(0));
    let page_size = int(8) as usize;
    let right = int(0) == MAGIC
        && int(4) == VERSION
        && word(META - 8) == fnv(&meta[..META - 8])
        && page_size.is_power_of_two()
        && (512..=1 << 16).contains(&page_size);
    // magic, version, page size, flags, root, its sequence, free list, pages, transaction, sum
    let meta = Meta { page_size, root: word(16), pages: word(40), transaction: word(48) };
    Ok(right.then_some(meta))
}

fn leaf(
    page: &[u8],
    at: u64,
    visit: &mut dyn FnMut(Pair<'_>) -> Result<(), BoltError>,
) -> Result<(), BoltError> {
    if page.len() < PAGE_HEADER || flags(page) != LEAF {
        return damaged("a leaf is none");
    }
    for n in 0..count(page) {
        let element = PAGE_HEADER + n * ELEMENT;
        let field = |at| number(page, element + at).map(|number| number as usize);
        let (Some(kind), Some(offset), Some(key), Some(value)) =
            (field(0), field(4), field(8), field(12))
        else {
            return damaged("a leaf is cut");
        };
        let begin = element + offset;
        let (middle, end) = (begin.saturating_add(key), begin.saturating_add(key + value));
        let (Some(key), Some(value)) = (page.get(begin..middle), page.get(middle..end)) else {
            return damaged("a pair lies outside of its leaf");
        };
        let bucket = kind as u32 & IS_BUCKET != 0;
        visit(Pair { key, value, at: at + middle as u64, bucket })?;
    }
    Ok(())
}

fn flags(page: &[u8]) -> u16 {
    page.get(8..10).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]))
}

fn count(page: &[u8]) -> usize {
    page.get(10..12).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]).into())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
