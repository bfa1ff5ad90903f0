//! The lab target's layout: one partition that boots, one that holds the node's data.
//!
//! All ids are derived from cluster, node and install order, and the marker on the data has them all:
//! what is mounted is this layout or nothing. The agent finds partitions by their place on a disk whose
//! claim is ours. The initrd knows none of that, and boots the one partition called `plasma-esp`.

use std::path::Path;

use fault::Fault;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::os::{Block, Disks, Format, Partition, put};
use crate::Context;

/// The partition that boots.
pub(crate) const ESP: &str = "plasma-esp";
/// The partition with the node's data.
pub(crate) const DATA: &str = "plasma-data";
/// The marker on the data partition, written last.
pub(crate) const MARKER: &str = ".plasma/layout.json";

const ESP_MIB: u32 = 384;
const NAMESPACE: uuid::Uuid = uuid::uuid!("5f0c1f6e-3c52-4b53-9e0d-6d8b2f6f3c11");

/// The ids of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The marker's own form.
    pub(crate) version: u32,
    /// Whose it is.
    pub(crate) cluster_id: String,
    /// Whose it is.
    pub(crate) node: String,
    /// Under which order it was made.
    pub(crate) install_id: String,
    /// The table's id.
    pub(crate) disk_uuid: String,
    /// The id of the partition that boots.
    pub(crate) esp_partuuid: String,
    /// The id of the data partition.
    pub(crate) data_partuuid: String,
    /// The id of the data filesystem.
    pub(crate) data_uuid: String,
    /// The number of the boot filesystem.
    pub(crate) esp_number: u32,
}

impl Layout {
    /// The layout of this node under this order.
    pub(crate) fn new(cluster_id: &str, node: &str, install_id: &str) -> Layout {
        let id = |what: &str| derived(&format!("{cluster_id}/{node}/{install_id}/{what}"));
        let esp = id("esp-volume");
        let [a, b, c, d, ..] = *esp.as_bytes();
        Layout {
            version: 1,
            cluster_id: cluster_id.to_owned(),
            node: node.to_owned(),
            install_id: install_id.to_owned(),
            disk_uuid: id("disk").to_string(),
            esp_partuuid: id("esp").to_string(),
            data_partuuid: id("data").to_string(),
            data_uuid: id("data-volume").to_string(),
            esp_number: u32::from_be_bytes([a, b, c, d]),
        }
    }

    /// As [`Layout::new`], of a step's context.
    pub(crate) fn of(context: &Context<'_>) -> Layout {
        Layout::new(context.cluster_id, context.node, context.install_id)
    }

    /// Makes it on an empty disk.
    pub(crate) async fn make<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        let parts = [
            Partition {
                label: ESP,
                uuid: self.esp_partuuid.clone(),
                code: "EF00",
                mib: Some(ESP_MIB),
                bios_boots: true,
            },
            Partition {
                label: DATA,
                uuid: self.data_partuuid.clone(),
                code: "8300",
                mib: None,
                bios_boots: false,
            },
        ];
        disks.partition(&disk.path, &self.disk_uuid, &parts).await?;
        disks.reread(&disk.path).await?;
        let esp = Format::Vfat { label: "PLASMA-ESP", number: self.esp_number };
        disks.format(&part(&disk.path, 1), &esp).await?;
        let data = Format::Ext4 { label: DATA, uuid: self.data_uuid.clone() };
        disks.format(&part(&disk.path, 2), &data).await
    }

    /// The last act of laying out: the mark on the mounted data partition.
    pub(crate) async fn mark<D: Disks>(&self, disks: &D, data: &Path) -> Result<(), Fault> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        put(disks, &data.join(MARKER), &text).await
    }

    /// Whether the mounted data partition bears this layout's mark.
    pub(crate) async fn is_marked<D: Disks>(&self, disks: &D, data: &Path) -> Result<bool, Fault> {
        let text = disks.read_file(&data.join(MARKER)).await?;
        Ok(text.and_then(|text| serde_json::from_slice::<Layout>(&text).ok()).as_ref()
            == Some(self))
    }
}

/// A UUID of version 5.
fn derived(name: &str) -> uuid::Uuid {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(NAMESPACE.as_bytes());
    hash.update(name.as_bytes());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

/// A partition's device: names that end in a digit take a `p`.
pub(crate) fn part(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{between}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_the_order_and_differ() {
        let one = Layout::new("c", "node01", "i1");
        assert_eq!(one, Layout::new("c", "node01", "i1"));
        let other = Layout::new("c", "node01", "i2");
        assert_ne!(one.data_uuid, other.data_uuid);
        assert_ne!(one.esp_partuuid, one.data_partuuid);
        assert_eq!(uuid::Uuid::parse_str(&one.data_uuid).map(|id| id.get_version_num()), Ok(5));
    }

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        assert_eq!(part("/dev/vda", 1), "/dev/vda1");
        assert_eq!(part("/dev/nvme0n1", 2), "/dev/nvme0n1p2");
        assert_eq!(part("/dev/loop3", 2), "/dev/loop3p2");
    }
}
