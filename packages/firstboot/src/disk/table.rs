//! What tells one partition table from another: its own id, which each tool makes anew with a new
//! table, and the sum over its partitions, which changes with them.

use super::os::{Block, Disks};
use fault::Fault;

const MAGIC: &[u8] = b"EFI PART";
/// The table's header stands in the second sector, and sectors have one of these sizes.
const SECTORS: [usize; 2] = [512, 4096];
/// Where a header has its id and the sum of its entries.
const ID: std::ops::Range<usize> = 56..72;
const SUM: std::ops::Range<usize> = 88..92;

/// A disk's table in few letters; empty when it has none that can be read.
pub(crate) async fn read<D: Disks>(disks: &D, disk: &Block) -> Result<String, Fault> {
    let bytes = disks.read(&disk.path, 0, 2 * SECTORS[1]).await?;
    Ok(of(&bytes))
}

fn of(bytes: &[u8]) -> String {
    let headers = SECTORS.iter().filter_map(|&at| bytes.get(at..));
    let header = headers.into_iter().find(|bytes| bytes.starts_with(MAGIC));
    let marks = header.and_then(|header| Some((header.get(ID)?, header.get(SUM)?)));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    marks.map_or_else(String::new, |(id, sum)| hex(id) + &hex(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_partitions_make_a_table_and_other_bytes_do_not() {
        for sector in SECTORS {
            let mut bytes = vec![0; 2 * SECTORS[1]];
            assert_eq!(of(&bytes), "");
            bytes[sector..sector + 8].copy_from_slice(MAGIC);
            let one = of(&bytes);
            assert_eq!(one.len(), 40);
            for (at, differs) in [(56, true), (71, true), (88, true), (91, true), (24, false)] {
                let mut other = bytes.clone();
                other[sector + at] ^= 1;
                assert_eq!(of(&other) != one, differs, "byte {at}");
            }
            assert_eq!(of(&bytes[..sector + 70]), "");
        }
    }
}
