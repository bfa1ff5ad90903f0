//! A machine's disks: sparse files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ring::digest;
use rustix::io::Errno;

const GIB: u64 = 1 << 30;
const BLOCK: usize = 1 << 20;

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file that stands for it.
    pub path: PathBuf,
    /// The serial number that the machine sees.
    pub serial: String,
}

impl Disk {
    /// A blank one, or the one that is there.
    pub fn blank(dir: &Path, serial: &str, gib: u64) -> Result<Disk> {
        let path = dir.join(format!("{serial}.img"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        if file.metadata()?.len() == 0 {
            file.set_len(gib * GIB)?;
        }
        Ok(Disk { path, serial: serial.to_owned() })
    }

    /// Puts an empty disk in its place.
    pub fn replace_by_blank(&self) -> Result<()> {
        let bytes = std::fs::metadata(&self.path)?.len();
        let file = File::create(&self.path)?;
        Ok(file.set_len(bytes)?)
    }

    /// Writes somewhere into it, as an older system would have.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.write_all(bytes)?)
    }

    /// What it holds: equal for disks of equal bytes, whatever is sparse.
    pub fn checksum(&self) -> Result<String> {
        let mut file = File::open(&self.path)?;
        let bytes = file.metadata()?.len();
        let mut context = digest::Context::new(&digest::SHA256);
        let mut block = vec![0; BLOCK];
        let zero = vec![0; BLOCK];
        let mut offset = 0u64;
        while let Some(data) = next_data(&file, offset, bytes)? {
            offset = data - data % BLOCK as u64;
            file.seek(SeekFrom::Start(offset))?;
            let got = read_full(&mut file, &mut block)?;
            let part = block.get(..got).unwrap_or_default();
            if zero.get(..got) != Some(part) {
                context.update(&offset.to_be_bytes());
                context.update(part);
            }
            offset += BLOCK as u64;
        }
        context.update(&bytes.to_be_bytes());
        Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The next place that is no hole; a filesystem that knows no holes has none.
fn next_data(file: &File, offset: u64, bytes: u64) -> Result<Option<u64>> {
    if offset >= bytes {
        return Ok(None);
    }
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_full(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = block.get_mut(got..)
        && !rest.is_empty()
    {
        match file.read(rest)? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_sees_one_byte_and_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        let one = Disk::blank(dir.path(), "ONE", 1).unwrap();
        let two = Disk::blank(dir.path(), "TWO", 1).unwrap();
        assert_eq!(one.checksum().unwrap(), two.checksum().unwrap());
        two.write(5 << 20, &[0; 4096]).unwrap();
        assert_eq!(one.checksum().unwrap(), two.checksum().unwrap());
        two.write((1 << 30) - 1, &[1]).unwrap();
        assert_ne!(one.checksum().unwrap(), two.checksum().unwrap());
        two.replace_by_blank().unwrap();
        assert_eq!(one.checksum().unwrap(), two.checksum().unwrap());
    }
}
