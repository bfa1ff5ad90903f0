//! The claim: one sector that says whose a disk is. It is written and synced before anything on
//! the disk is destroyed, and stands in the gap between the partition table and the first
//! partition, where neither reaches.
//!
//! `Claimed` means: this disk may be erased for this install. `LaidOut` means: it was, and under
//! this install id nothing on it is ever destroyed again.

use fault::{Fault, Kind};

use crate::codes;

/// The sector's length.
pub(crate) const SECTOR: usize = 512;
/// The sector's place: the last one before the first partition.
pub(crate) const OFFSET: u64 = 2047 * SECTOR as u64;
/// Its copy, in another 4 KiB block. It is written first, so that one of the two is whole whenever
/// the power goes.
pub(crate) const SPARE: u64 = 2039 * SECTOR as u64;
/// The first byte that is neither.
pub(crate) const END: u64 = OFFSET + SECTOR as u64;

const MAGIC: &[u8; 12] = b"PLASMACLAIM1";
const SUM_AT: usize = SECTOR - 4;

/// Whose a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// The node's name.
    pub(crate) node: String,
    /// The order under which it was claimed.
    pub(crate) install_id: String,
    /// The disk's own serial number (or WWN): a copy of the disk is not the disk.
    pub(crate) disk: String,
    /// How far that went.
    pub(crate) stage: Stage,
    /// The partition table that was laid out, see [`super::table`]: another one is another's.
    /// Empty while it is only claimed.
    pub(crate) table: String,
}

/// How far an install got with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It may be erased.
    Claimed,
    /// It is laid out and is not erased again.
    LaidOut,
}

/// What the sector holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sector {
    /// Zeros.
    Nothing,
    /// The beginning of a claim that was cut while being written: the disk was claimed by someone
    /// and nothing was destroyed yet.
    Torn,
    /// Something else: data.
    Data,
    /// A claim.
    Claim(Claim),
}

impl Claim {
    /// The sector to write.
    pub(crate) fn encode(&self) -> Result<[u8; SECTOR], Fault> {
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.extend_from_slice(MAGIC);
        bytes.push(match self.stage {
            Stage::Claimed => 1,
            Stage::LaidOut => 2,
        });
        for text in [&self.cluster_id, &self.node, &self.install_id, &self.disk, &self.table] {
            let length = u8::try_from(text.len()).map_err(|_| too_long(text))?;
            bytes.push(length);
            bytes.extend_from_slice(text.as_bytes());
        }
        if bytes.len() > SUM_AT {
            return Err(too_long(&self.disk));
        }
        bytes.resize(SUM_AT, 0);
        let sum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes.extend_from_slice(&sum);
        bytes.try_into().map_err(|_| too_long(&self.disk))
    }
}

impl Sector {
    /// What the bytes from [`SPARE`] to [`END`] hold: the spare counts where the sector itself is
    /// no claim.
    pub(crate) fn of_both(bytes: &[u8]) -> Sector {
        let main = Sector::decode(bytes.get((OFFSET - SPARE) as usize..).unwrap_or_default());
        let spare = Sector::decode(bytes.get(..SECTOR).unwrap_or_default());
        match (main, spare) {
            (Sector::Claim(claim), _) | (_, Sector::Claim(claim)) => Sector::Claim(claim),
            (Sector::Data, _) | (_, Sector::Data) => Sector::Data,
            (Sector::Nothing, Sector::Nothing) => Sector::Nothing,
            _ => Sector::Torn,
        }
    }

    /// Whether it is this claim, with whatever partition table.
    pub(crate) fn is_claim(&self, claim: &Claim) -> bool {
        let Sector::Claim(found) = self else { return false };
        Claim { table: claim.table.clone(), ..found.clone() } == *claim
    }

    /// Reads the sector; nothing that stands in it is an error.
    pub(crate) fn decode(bytes: &[u8]) -> Sector {
        if bytes.iter().all(|&byte| byte == 0) {
            return Sector::Nothing;
        }
        if !bytes.starts_with(MAGIC) {
            return Sector::Data;
        }
        match fields(bytes) {
            Some(claim) => Sector::Claim(claim),
            None => Sector::Torn,
        }
    }
}

fn fields(bytes: &[u8]) -> Option<Claim> {
    let (body, sum) = (bytes.get(..SUM_AT)?, bytes.get(SUM_AT..SECTOR)?);
    if crc32c::crc32c(body).to_le_bytes() != sum {
        return None;
    }
    let stage = match body.get(MAGIC.len())? {
        1 => Stage::Claimed,
        2 => Stage::LaidOut,
        _ => return None,
    };
    let mut rest = body.get(MAGIC.len() + 1..)?;
    let mut text = || {
        let (&length, tail) = rest.split_first()?;
        let (text, tail) = tail.split_at_checked(usize::from(length))?;
        rest = tail;
        String::from_utf8(text.to_vec()).ok()
    };
    let (cluster_id, node, install_id) = (text()?, text()?, text()?);
    let (disk, table) = (text()?, text()?);
    Some(Claim { cluster_id, node, install_id, disk, stage, table })
}

fn too_long(text: &str) -> Fault {
    Fault::new(
        codes::DISK_COMMAND,
        Kind::Invalid,
        format!("a claim has no room for {text:?}"),
        "shorten the node's name, or report this as a bug",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim() -> Claim {
        Claim {
            cluster_id: "0198d2c4-1111-7222-8333-444455556666".into(),
            node: "node01".into(),
            install_id: "0198d2c4-9999-7222-8333-444455556666".into(),
            disk: "PLASMA-DISK01".into(),
            stage: Stage::Claimed,
            table: "0011".into(),
        }
    }

    #[test]
    fn a_claim_reads_back_and_any_changed_byte_is_noticed() {
        let written = claim().encode().expect("fits");
        assert_eq!(Sector::decode(&written), Sector::Claim(claim()));
        for at in 0..SECTOR {
            let mut bytes = written;
            bytes[at] ^= 0x10;
            let expected = if at < MAGIC.len() { Sector::Data } else { Sector::Torn };
            assert_eq!(Sector::decode(&bytes), expected, "byte {at}");
        }
        assert_eq!(Sector::decode(&[0; SECTOR]), Sector::Nothing);
    }

    #[test]
    fn the_spare_stands_in_for_a_torn_claim() {
        let both = |main: &[u8], spare: &[u8]| {
            let mut bytes = vec![0; (END - SPARE) as usize];
            bytes[..spare.len()].copy_from_slice(spare);
            let at = (OFFSET - SPARE) as usize;
            bytes[at..at + main.len()].copy_from_slice(main);
            Sector::of_both(&bytes)
        };
        let (old, new) = (claim(), Claim { install_id: "later".into(), ..claim() });
        let (a, b) = (old.encode().expect("fits"), new.encode().expect("fits"));
        assert_eq!(both(&a, &b), Sector::Claim(old));
        assert_eq!(both(&a[..100], &b), Sector::Claim(new.clone()));
        assert_eq!(both(&[], &b), Sector::Claim(new));
        assert_eq!(both(&[], &b[..40]), Sector::Torn);
        assert_eq!(both(&[1], &[]), Sector::Data);
        assert_eq!(both(&[], &[]), Sector::Nothing);
        assert_eq!(Sector::of_both(&[]), Sector::Nothing);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = Claim { disk: "x".repeat(255), node: "n".repeat(200), ..claim() };
        assert!(long.encode().is_err());
        assert!(Claim { disk: "x".repeat(256), ..claim() }.encode().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            Sector::decode(&bytes);
            let mut after_magic = MAGIC.to_vec();
            after_magic.extend(bytes);
            Sector::decode(&after_magic);
        }
    }
}
