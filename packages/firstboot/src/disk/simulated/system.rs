//! What the system says and does, on the simulated machine.

use super::*;

impl Disks for Simulated {
    async fn blocks(&self) -> Result<Vec<Block>, Fault> {
        let state = self.look()?;
        let mut blocks = Vec::new();
        let places = |device: &str| -> Vec<String> {
            let on = state.mounts.iter().filter(|mount| mount.device == device);
            on.map(|mount| mount.place.to_string_lossy().into_owned()).collect()
        };
        for disk in &state.disks {
            blocks.push(Block {
                path: disk.path.clone(),
                kind: BlockKind::Disk,
                bytes: disk.bytes,
                serial: disk.serial.clone(),
                read_only: disk.read_only,
                mounted: places(&disk.path),
                ..Block::default()
            });
            for (number, (_, length)) in (1..).zip(&disk.known) {
                let path = format!("{}{number}", disk.path);
                blocks.push(Block {
                    kind: BlockKind::Partition,
                    bytes: length * SECTOR,
                    mounted: places(&path),
                    parents: vec![disk.path.clone()],
                    path,
                    ..Block::default()
                });
            }
        }
        for stack in &state.up {
            blocks.push(Block {
                path: stack.path.clone(),
                kind: stack.kind.clone(),
                mounted: stack.mounted.clone(),
                parents: stack.parents.clone(),
                ..Block::default()
            });
        }
        Ok(blocks)
    }

    async fn signatures(&self, device: &str) -> Result<Vec<String>, Fault> {
        Ok(self.look()?.names(device).into_iter().map(str::to_owned).collect())
    }

    async fn groups(&self, device: &str) -> Result<Vec<String>, Fault> {
        let state = self.look()?;
        let Some((number, first, _)) = state.place(device) else { return Ok(Vec::new()) };
        let ids = state.names(device).into_iter().filter_map(|name| match name {
            "linux_raid_member" => Some((name, 4096 + 16)),
            "LVM2_member" => Some((name, 512 + 32)),
            _ => None,
        });
        let read = |(name, at)| (name, state.disks[number].get(first * SECTOR + at, 16));
        let known = ids.map(read).filter(|(_, id)| id.iter().any(|&byte| byte != 0));
        Ok(known.map(|(name, id)| format!("{name} {id:?}")).collect())
    }

    async fn read(&self, device: &str, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let state = self.look()?;
        let (number, first, _) = state.place(device).ok_or_else(|| failed("no such device"))?;
        Ok(state.disks[number].get(first * SECTOR + offset, length))
    }

    async fn is_same(&self, disk: &Block) -> Result<bool, Fault> {
        Ok(is_among(&self.blocks().await?, disk))
    }

    async fn booted_from_disk(&self) -> Result<bool, Fault> {
        Ok(self.look()?.from_disk)
    }

    async fn write(&self, device: &str, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let write = |state: &mut State, length: usize| {
            if !device.starts_with(&state.target) {
                state.violations.push(format!("write on {device}"));
            }
            let (number, first, _) = state.place(device).ok_or_else(|| failed("no device"))?;
            state.disks[number].put(first * SECTOR + offset, &bytes[..length]);
            Ok(())
        };
        self.operate(
            format!("write {device} {offset}"),
            |state| {
                let length = state.random() as usize % bytes.len();
                let _ = write(state, length);
            },
            |state| write(state, bytes.len()),
        )
    }

    async fn zero(&self, device: &str, offset: u64, length: u64) -> Result<(), Fault> {
        let zero = |state: &mut State, half: bool| {
            state.watch("zero", device);
            if let Some((path, bytes)) = state.image_changes.take() {
                state.ram.insert(path, bytes);
            }
            let Some((number, _, _)) = state.place(device) else { return Err(failed("no device")) };
            let range = offset / SECTOR..(offset + length) / SECTOR;
            let hit: Vec<u64> = state.disks[number].sectors.range(range).map(|(n, _)| *n).collect();
            for sector in hit {
                if !half || state.chance() {
                    state.disks[number].sectors.remove(&sector);
                }
            }
            Ok(())
        };
        self.operate(
            format!("zero {device} {offset}"),
            |state| drop(zero(state, true)),
            |state| zero(state, false),
        )
    }

    async fn release(&self, holder: &Holder) -> Result<(), Fault> {
        self.operate(
            format!("release {holder:?}"),
            |_| {},
            |state| {
                match holder {
                    Holder::Mount(place) => {
                        let there = state.mounts.iter().rposition(|m| m.place == Path::new(place));
                        if let Some(at) = there {
                            let mount = state.mounts.remove(at);
                            let volume = state.volumes.entry(mount.volume).or_default();
                            volume.durable = volume.live.clone();
                        }
                        for stack in &mut state.up {
                            stack.mounted.retain(|mounted| mounted != place);
                        }
                    }
                    Holder::Swap(device) => {
                        for stack in state.up.iter_mut().filter(|stack| stack.path == *device) {
                            stack.mounted.retain(|mounted| mounted != "[SWAP]");
                        }
                    }
                    Holder::Mapping(device) | Holder::Array(device) => {
                        if state.in_use(device)
                            || state.up.iter().any(|s| s.path == *device && !s.mounted.is_empty())
                        {
                            return Err(failed("device or resource busy"));
                        }
                        state.up.retain(|stack| stack.path != *device);
                    }
                }
                Ok(())
            },
        )
    }

    async fn erase_signatures(&self, device: &str) -> Result<(), Fault> {
        let erase = |state: &mut State, half: bool| {
            if state.up.iter().any(|stack| stack.path == device) {
                return Ok(());
            }
            state.watch("erase", device);
            if state.in_use(device) {
                return Err(failed("probing initialization failed: Device or resource busy"));
            }
            let Some((number, first, length)) = state.place(device) else {
                return Err(failed("no device"));
            };
            for (_, sector) in state.disks[number].signatures(first, length) {
                if !half || state.chance() {
                    state.disks[number].sectors.remove(&sector);
                }
            }
            Ok(())
        };
        self.operate(
            format!("erase {device}"),
            |state| drop(erase(state, true)),
            |state| erase(state, false),
        )
    }

    async fn partition(&self, disk: &str, uuid: &str, parts: &[Partition]) -> Result<(), Fault> {
        let divide = |state: &mut State, half: bool| {
            state.watch("partition", disk);
            let Some((number, _, _)) = state.place(disk) else { return Err(failed("no device")) };
            let mut first = MIB;
            let mut ranges = Vec::new();
            for part in parts {
                let left = state.disks[number].bytes - first - MIB;
                let length = part.mib.map_or(left, |mib| u64::from(mib) * MIB);
                ranges.push((first, length));
                first += length;
            }
            let before = state.disks[number].clone();
            state.disks[number].divide_as(uuid, &ranges);
            let end = state.disks[number].bytes / SECTOR - 1;
            for sector in [0, 1, end] {
                if half && state.chance() {
                    let old = before.get(sector * SECTOR, 512);
                    state.disks[number].put(sector * SECTOR, &old);
                }
            }
            Ok(())
        };
        self.operate(
            format!("partition {disk}"),
            |state| drop(divide(state, true)),
            |state| divide(state, false),
        )
    }

    async fn reread(&self, disk: &str) -> Result<(), Fault> {
        self.operate(
            format!("reread {disk}"),
            |_| {},
            |state| {
                if state.in_use(disk) {
                    return Err(failed("BLKRRPART: Device or resource busy"));
                }
                state.read_tables();
                Ok(())
            },
        )
    }

    async fn format(&self, device: &str, format: &Format) -> Result<(), Fault> {
        let make = |state: &mut State| {
            state.watch("format", device);
            if state.formats_fail {
                return Err(failed("mkfs: no space left on device"));
            }
            let Some((number, first, _)) = state.place(device) else {
                return Err(failed("no device"));
            };
            let id = state.volumes.len() as u64 + 1;
            state.volumes.insert(id, Volume::default());
            let mut block = vec![0; 2048];
            match format {
                Format::Vfat { .. } => block[82..87].copy_from_slice(b"FAT32"),
                Format::Ext4 { .. } => block[1080..1082].copy_from_slice(&[0x53, 0xef]),
            }
            block[1100..1108].copy_from_slice(&id.to_le_bytes());
            state.disks[number].put(first * SECTOR, &block);
            state.formats += 1;
            Ok(())
        };
        self.operate(
            format!("format {device}"),
            |state| {
                if state.chance() {
                    let _ = make(state);
                }
            },
            make,
        )
    }

    async fn bios_loader(&self, place: &Path, device: &str) -> Result<(), Fault> {
        self.operate(
            format!("bios loader {device}"),
            |_| {},
            |state| {
                state.set_file(&place.join("ldlinux.sys"), Some(b"loader".to_vec()));
                Ok(())
            },
        )
    }

    async fn mounts(&self) -> Result<Vec<Mount>, Fault> {
        let state = self.look()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let all = state.mounts.iter().map(|mount| Mount {
            device: mount.device.clone(),
            place: text(&mount.place),
            root: text(&mount.root),
        });
        Ok(all.collect())
    }

    async fn mount(&self, device: &str, place: &Path, kind: &str) -> Result<(), Fault> {
        self.operate(
            format!("mount {device}"),
            |_| {},
            |state| {
                let (number, first, _) = state.place(device).ok_or_else(|| failed("no device"))?;
                if !state.names(device).contains(&kind) {
                    return Err(failed("wrong fs type, bad superblock"));
                }
                let id = state.disks[number].get(first * SECTOR + 1100, 8);
                let volume = u64::from_le_bytes(id.try_into().expect("eight bytes"));
                state.mounts.push(Mounted {
                    device: device.into(),
                    place: place.into(),
                    root: "/".into(),
                    volume,
                });
                Ok(())
            },
        )
    }

    async fn bind(&self, from: &Path, place: &Path) -> Result<(), Fault> {
        self.operate(
            format!("bind {}", place.display()),
            |_| {},
            |state| {
                let (volume, root) = state.volume_of(from).ok_or_else(|| failed("not mounted"))?;
                let device = state.mounts.iter().find(|mount| mount.volume == volume);
                let device = device.map(|mount| mount.device.clone()).unwrap_or_default();
                state.mounts.push(Mounted { device, place: place.into(), root, volume });
                Ok(())
            },
        )
    }

    async fn real_path(&self, path: &Path) -> Result<PathBuf, Fault> {
        Ok(path.to_owned())
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.look()?.file(path))
    }

    async fn file_bytes(&self, path: &Path) -> Result<Option<u64>, Fault> {
        Ok(self.look()?.file(path).map(|bytes| bytes.len() as u64))
    }

    async fn sum(&self, path: &Path) -> Result<Option<Expected>, Fault> {
        Ok(self.look()?.file(path).map(|bytes| Expected {
            sha256: crate::install::fetch::hex_sum(&bytes),
            bytes: bytes.len() as u64,
        }))
    }

    async fn make_folder(&self, _path: &Path) -> Result<(), Fault> {
        self.look().map(drop)
    }

    async fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        self.operate(
            format!("write {}", path.display()),
            |state| {
                let length = state.random() as usize % (bytes.len() + 1);
                state.set_file(path, Some(bytes[..length].to_vec()));
            },
            |state| {
                state.set_file(path, Some(bytes.to_vec()));
                Ok(())
            },
        )
    }

    async fn copy(
        &self,
        source: &Source,
        path: &Path,
        expected: Option<&Expected>,
    ) -> Result<(), Fault> {
        let found = match source {
            Source::File(from) => self.look()?.file(from),
            Source::Url(url) => self.look()?.server.get(url).cloned(),
        };
        let bytes = found.ok_or_else(|| failed("no such file"))?;
        if let Some(expected) = expected
            && expected.sha256 != crate::install::fetch::hex_sum(&bytes)
        {
            return Err(Fault::new(codes::IMAGE, Kind::Unavailable, "the sum differs", ""));
        }
        self.write_file(path, &bytes).await
    }

    async fn manifest(&self) -> Result<Vec<u8>, Fault> {
        let state = self.look()?;
        state.server.get("manifest").cloned().ok_or_else(|| failed("no manifest"))
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        self.operate(
            format!("rename {}", to.display()),
            |_| {},
            |state| {
                let bytes = state.file(from).ok_or_else(|| failed("no such file"))?;
                state.set_file(from, None);
                state.set_file(to, Some(bytes));
                Ok(())
            },
        )
    }

    async fn sync_folder(&self, path: &Path) -> Result<(), Fault> {
        self.operate(
            format!("sync {}", path.display()),
            |_| {},
            |state| {
                if let Some((volume, inner)) = state.volume_of(path) {
                    let volume = state.volumes.entry(volume).or_default();
                    volume.durable.retain(|name, _| name.parent() != Some(&inner));
                    let here = volume.live.iter().filter(|(name, _)| name.parent() == Some(&inner));
                    let here: Vec<_> =
                        here.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
                    volume.durable.extend(here);
                }
                Ok(())
            },
        )
    }

    /// What the NixOS target runs, as far as its effects go: disko's scripts, the install, and
    /// going over to the system, which ends this one.
    async fn run(&self, program: &str, args: &[String], _within: Duration) -> Result<(), Fault> {
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        let target = self.look()?.target.clone();
        match name.as_str() {
            "format-mount" => {
                let part = Partition {
                    label: "root",
                    uuid: String::new(),
                    code: "8300",
                    mib: None,
                    bios_boots: false,
                };
                self.partition(&target, "", &[part]).await?;
                self.reread(&target).await?;
                let root = Format::Ext4 { label: "root", uuid: String::new() };
                self.format(&format!("{target}1"), &root).await?;
                self.mount(&format!("{target}1"), Path::new("/mnt"), "ext4").await
            }
            "mount" => self.mount(&format!("{target}1"), Path::new("/mnt"), "ext4").await,
            "systemctl" => {
                let mut state = self.look()?;
                state.done.push(format!("systemctl {}", args.join(" ")));
                // the firmware boots from the network first
                state.root_on_disk = args.iter().any(|verb| verb == "kexec");
                state.dead = Some(Cut::Power);
                Err(gone())
            }
            "kexec" if self.look()?.kexec_refused => Err(failed("kexec_file_load: not permitted")),
            "nixos-install" => self.operate(
                format!("run {name} {}", args.join(" ")),
                |_| {},
                |state| {
                    state.set_file(Path::new("/mnt/nix/system"), Some(b"system".to_vec()));
                    Ok(())
                },
            ),
            "sync" => self.operate(
                format!("run {name} {}", args.join(" ")),
                |_| {},
                |state| {
                    for place in args.iter().filter(|arg| !arg.starts_with("--")) {
                        let volume = state.volume_of(Path::new(place)).map(|(volume, _)| volume);
                        let volume = volume.and_then(|volume| state.volumes.get_mut(&volume));
                        let volume = volume.ok_or_else(|| failed("sync: no such mount"))?;
                        volume.durable = volume.live.clone();
                    }
                    Ok(())
                },
            ),
            _ => self.operate(format!("run {name} {}", args.join(" ")), |_| {}, |_| Ok(())),
        }
    }
}
