//! The archive that the kernel unpacks beside its initrd: cpio, format `newc`. The boot server makes
//! one for each boot from the network, the installer the same for the boots from disk.

/// An archive with these files; folders on the way are made. Paths are relative.
pub fn newc(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut inode, mut made) = (0u32, Vec::<&str>::new());
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if !made.contains(&folder) {
                made.push(folder);
                inode += 1;
                entry(&mut out, inode, 0o040_755, folder, &[]);
            }
        }
        inode += 1;
        entry(&mut out, inode, 0o100_644, path, content);
    }
    entry(&mut out, 0, 0, "TRAILER!!!", &[]);
    // whole sectors: what loaders put behind it begins aligned
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    // inode, mode, uid, gid, links, mtime, size, device major and minor, its own, name, checksum
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_newc() {
        let archive = newc(&[("etc/plasma/ca.pem", b"CA\n"), ("etc/plasma/b.toml", b"x = 1\n")]);
        assert!(archive.len().is_multiple_of(512));
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(text.matches("070701").count(), 5, "two folders, two files, the trailer");
        assert!(text.contains("etc/plasma/ca.pem\0") && text.contains("TRAILER!!!\0"));
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("etc\0") < at("etc/plasma\0") && at("etc/plasma\0") < at("etc/plasma/ca.pem\0"));
        let content = archive.windows(3).position(|bytes| bytes == b"CA\n").unwrap();
        assert!(content.is_multiple_of(4));
    }
}
