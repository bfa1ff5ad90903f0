//! Reads what lsblk, wipefs and the kernel print. Whatever stands in it: no panic, and what is not
//! understood is left out or refused by name.

use std::collections::BTreeMap;

use fault::{Fault, Kind};
use serde_json::Value;

use super::os::{Block, BlockKind, Mount};
use crate::codes;

/// Stacks of devices are not deeper than this.
const DEPTH_MAX: u32 = 32;

/// The devices of `lsblk --json --bytes --paths`. A device that stands on several others is listed
/// below each of them, and comes out once with all its parents.
pub(crate) fn lsblk(text: &[u8]) -> Result<Vec<Block>, Fault> {
    let value: Value = serde_json::from_slice(text).map_err(|error| garbled("lsblk", &error))?;
    let mut found = BTreeMap::new();
    let listed = value.get("blockdevices").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| garbled("lsblk", &"it lists no devices"))?;
    for device in listed {
        take(device, None, DEPTH_MAX, &mut found)?;
    }
    Ok(found.into_values().collect())
}

fn take(
    value: &Value,
    parent: Option<&str>,
    depth: u32,
    found: &mut BTreeMap<String, Block>,
) -> Result<(), Fault> {
    let Some(path) = text(value, "name") else {
        return Err(garbled("lsblk", &"a device has no name"));
    };
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(garbled("lsblk", &"devices are stacked too deep"));
    };
    let block = found.entry(path.clone()).or_insert_with(|| Block {
        path: path.clone(),
        kind: kind(&text(value, "type").unwrap_or_default()),
        bytes: number(value, "size"),
        serial: text(value, "serial"),
        wwn: text(value, "wwn"),
        model: text(value, "model"),
        rotational: truth(value, "rota"),
        sequence: None,
        read_only: truth(value, "ro"),
        mounted: mounted(value),
        parents: Vec::new(),
    });
    if let Some(parent) = parent
        && !block.parents.iter().any(|known| known == parent)
    {
        block.parents.push(parent.to_owned());
    }
    for child in value.get("children").and_then(Value::as_array).into_iter().flatten() {
        take(child, Some(&path), deeper, found)?;
    }
    Ok(())
}

fn kind(name: &str) -> BlockKind {
    match name {
        "disk" => BlockKind::Disk,
        "part" => BlockKind::Partition,
        "crypt" | "lvm" | "dm" | "mpath" => BlockKind::Mapping,
        "loop" => BlockKind::Loop,
        raid if raid.starts_with("raid") || raid == "md" || raid == "linear" => BlockKind::Array,
        _ => BlockKind::Other,
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    let text = value.get(key)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Numbers are numbers in newer versions and texts in older ones.
fn number(value: &Value, key: &str) -> u64 {
    match value.get(key) {
        Some(Value::Number(number)) => number.as_u64().unwrap_or_default(),
        Some(Value::String(text)) => text.trim().parse().unwrap_or_default(),
        _ => 0,
    }
}

fn truth(value: &Value, key: &str) -> bool {
    match value.get(key) {
        Some(Value::Bool(truth)) => *truth,
        Some(Value::String(text)) => text == "1",
        _ => false,
    }
}

fn mounted(value: &Value) -> Vec<String> {
    let all = value.get("mountpoints").and_then(Value::as_array).into_iter().flatten();
    all.chain(value.get("mountpoint")).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The signatures of `wipefs --json`, which prints nothing at all when there is none.
pub(crate) fn wipefs(text: &[u8]) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = signatures(text)?
        .iter()
        // a signature whose name is not understood is a signature all the same
        .map(|entry| {
            entry.get("type").and_then(Value::as_str).unwrap_or("something unknown").to_owned()
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn signatures(text: &[u8]) -> Result<Vec<Value>, Fault> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut value: Value =
        serde_json::from_slice(text).map_err(|error| garbled("wipefs", &error))?;
    match value.get_mut("signatures").map(Value::take) {
        Some(Value::Array(listed)) => Ok(listed),
        _ => Err(garbled("wipefs", &"it lists no signatures")),
    }
}

/// Signatures whose id is the whole's, the same on all its devices.
const SHARED: [&str; 4] = ["bcachefs", "btrfs", "linux_raid_member", "zfs_member"];

/// The arrays and pools in `wipefs --json`. A volume group's id is not in it, see [`pvs`].
pub(crate) fn wholes(text: &[u8]) -> Result<Vec<String>, Fault> {
    let listed = signatures(text)?;
    let id = |entry: &Value| {
        let kind = entry.get("type")?.as_str()?;
        let id = entry.get("uuid")?.as_str()?;
        (SHARED.contains(&kind) && !id.is_empty()).then(|| format!("{kind} {id}"))
    };
    Ok(listed.iter().filter_map(id).collect())
}

/// The volume groups of `pvs --reportformat json`; a volume of no group has an empty id.
pub(crate) fn pvs(text: &[u8]) -> Result<Vec<String>, Fault> {
    let value: Value = serde_json::from_slice(text).map_err(|error| garbled("pvs", &error))?;
    let reports = value.get("report").and_then(Value::as_array);
    let reports = reports.ok_or_else(|| garbled("pvs", &"it reports nothing"))?;
    let volumes = reports.iter().filter_map(|report| report.get("pv")?.as_array()).flatten();
    let ids = volumes.filter_map(|volume| volume.get("vg_uuid")?.as_str());
    Ok(ids.filter(|id| !id.is_empty()).map(|id| format!("volume group {id}")).collect())
}

/// The mounts of `/proc/self/mountinfo`.
pub(crate) fn mountinfo(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut words = before.split(' ').skip(3);
            let (root, place) = (words.next()?, words.next()?);
            let device = after.split(' ').nth(1)?;
            Some(Mount { device: plain(device), place: plain(place), root: plain(root) })
        })
        .collect()
}

/// The kernel writes spaces in paths as octal numbers.
fn plain(word: &str) -> String {
    let mut plain = word.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, character);
    }
    plain
}

fn garbled(tool: &str, why: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        codes::DISK_COMMAND,
        Kind::Internal,
        format!("cannot read what {tool} printed: {why}"),
        format!("run {tool} by hand on the machine, and report this as a bug"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIRROR: &str = r#"{"blockdevices":[
      {"name":"/dev/sda","type":"disk","size":1000,"serial":"A1","wwn":"0x5000","rota":true,"ro":false,"mountpoints":[null],
       "children":[{"name":"/dev/sda1","type":"part","size":900,"mountpoints":[null],
         "children":[{"name":"/dev/md127","type":"raid1","size":800,"mountpoints":["/mnt/a b"]}]}]},
      {"name":"/dev/sdb","type":"disk","size":"1000","serial":" B1 ","rota":"1","ro":"0","mountpoint":"[SWAP]",
       "children":[{"name":"/dev/md127","type":"raid1","size":800}]},
      {"name":"/dev/sr0","type":"rom","size":0,"serial":"","mountpoints":[]}]}"#;

    #[test]
    fn an_array_on_two_disks_comes_out_once_with_both() {
        let blocks = lsblk(MIRROR.as_bytes()).expect("lsblk's form");
        let by = |path: &str| blocks.iter().find(|block| block.path == path).expect("listed");
        assert_eq!(blocks.len(), 5);
        assert_eq!(by("/dev/md127").parents, ["/dev/sda1", "/dev/sdb"]);
        assert_eq!(by("/dev/md127").kind, BlockKind::Array);
        assert_eq!(by("/dev/md127").mounted, ["/mnt/a b"]);
        assert_eq!(by("/dev/sdb").serial.as_deref(), Some("B1"));
        assert_eq!((by("/dev/sdb").bytes, by("/dev/sdb").rotational), (1000, true));
        assert_eq!(by("/dev/sdb").mounted, ["[SWAP]"]);
        assert_eq!(by("/dev/sr0").serial, None);
    }

    #[test]
    fn signatures_are_named_once() {
        let text = r#"{"signatures":[{"device":"vda","offset":"0x200","type":"gpt","uuid":null},
            {"type":"gpt"},{"type":"PMBR"},{"offset":"0x0"}]}"#;
        assert_eq!(wipefs(text.as_bytes()).expect("read"), ["PMBR", "gpt", "something unknown"]);
        assert_eq!(wipefs(b"\n").expect("read"), Vec::<String>::new());
        assert!(wipefs(b"[]").is_err());
    }

    #[test]
    fn members_of_one_array_or_group_have_one_id() {
        // as util-linux 2.38 and lvm2 2.03 print it
        let text = br#"{"signatures": [
            {"device":"vdb1", "offset":"0x1000", "type":"linux_raid_member",
             "uuid":"2e0a9a3c-5a0c-7d2b-9d6f-0f3f6b0e0d11", "label":"any:span"},
            {"device":"vdb1", "offset":"0x218", "type":"LVM2_member",
             "uuid":"UweUW2-WJyX-N9JT-0wK7-oBx9-VJ5D-gnYgi3", "label":null},
            {"device":"vdb1", "offset":"0x438", "type":"ext4",
             "uuid":"b6a3cb4c-66b1-4f1b-8f3c-5a1e9bd8e0aa", "label":null},
            {"device":"vdb1", "type":"btrfs", "uuid":null}]}"#;
        let wholes = wholes(text).expect("read");
        assert_eq!(wholes, ["linux_raid_member 2e0a9a3c-5a0c-7d2b-9d6f-0f3f6b0e0d11"]);
        let text = br#"
  {
      "report": [
          {
              "pv": [
                  {"pv_name":"/dev/loop0", "vg_uuid":"1nBx7t-K1cv-8Hcz-NjQN-nYxB-XM3U-AeU2Ji"},
                  {"pv_name":"/dev/loop1", "vg_uuid":""}
              ]
          }
      ]
  }"#;
        let groups = pvs(text).expect("read");
        assert_eq!(groups, ["volume group 1nBx7t-K1cv-8Hcz-NjQN-nYxB-XM3U-AeU2Ji"]);
        assert!(pvs(b"").is_err() && pvs(b"{}").is_err());
    }

    #[test]
    fn mounts_are_read_with_their_roots_and_spaces() {
        let text = "36 35 98:2 /firstboot /var/lib/first\\040boot rw,noatime shared:1 - ext4 /dev/vda2 rw\nshort\n";
        let mounts = mountinfo(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].place, "/var/lib/first boot");
        assert_eq!(
            (mounts[0].device.as_str(), mounts[0].root.as_str()),
            ("/dev/vda2", "/firstboot")
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (wholes(&bytes), pvs(&bytes));
            let _ = (lsblk(&bytes), wipefs(&bytes), mountinfo(&String::from_utf8_lossy(&bytes)));
        }

        /// The real form, cut and with bytes changed.
        #[test]
        fn damaged_output_never_panics(cut in 0..MIRROR.len(), at in 0..MIRROR.len(), byte: u8) {
            let mut bytes = MIRROR.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = (lsblk(&bytes), lsblk(&MIRROR.as_bytes()[..cut]), wipefs(&bytes));
        }

        /// Well-formed JSON of the wrong shape.
        #[test]
        fn odd_json_never_panics(kind in "[a-z0-9]{0,6}", size in any::<i64>(), name in ".{0,12}") {
            let odd = serde_json::json!({"blockdevices": [
                {"name": name, "type": kind, "size": size, "ro": size, "mountpoints": name,
                 "children": [{"name": name, "children": {"x": 1}}]}, name, size]});
            let _ = lsblk(odd.to_string().as_bytes());
        }
    }
}
