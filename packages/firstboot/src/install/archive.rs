//! Makes the small archive (cpio, form newc) that gives an image its cluster: the kernel unpacks
//! it over the initrd.

/// Files by their paths without a leading slash, after the folders they stand in.
pub(crate) fn newc(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = 0;
    let mut folders: Vec<&str> = Vec::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            let folder = path.get(..at).unwrap_or_default();
            if !folders.contains(&folder) {
                folders.push(folder);
                number += 1;
                entry(&mut out, number, 0o040_755, folder, &[]);
            }
        }
        number += 1;
        entry(&mut out, number, 0o100_644, path, bytes);
    }
    entry(&mut out, 0, 0, "TRAILER!!!", &[]);
    out
}

fn entry(out: &mut Vec<u8>, number: u32, mode: u32, path: &str, bytes: &[u8]) {
    // inode, mode, uid, gid, links, time, size, device and rdevice, length of the name, no sum
    let fields =
        [number, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    align(out);
    out.extend_from_slice(bytes);
    align(out);
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_first() {
        let archive = newc(&[("etc/plasma/ca.pem", b"abc"), ("etc/plasma/firstboot.toml", b"x")]);
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(text.matches("070701").count(), 5);
        let at = |what: &str| text.find(what).expect("in it");
        assert!(at("etc\0") < at("etc/plasma\0") && at("etc/plasma\0") < at("etc/plasma/ca.pem\0"));
        assert!(text.contains("TRAILER!!!"));
    }
}
