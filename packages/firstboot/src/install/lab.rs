//! The lab target: the image that runs is copied to the disk with boot loaders for BIOS and UEFI,
//! and the run goes on in the running system. The next power-on boots the same image from disk.

use std::path::{Path, PathBuf};

use bootserver::boot::cpio;
use fault::Fault;
use inventory::Layout as Division;

use super::manifest::{FILES, Manifest};
use super::{Install, Installed, RECORD, boot};
use crate::disk::{Block, Disks, Layout, Source, part, put, put_copy, stop};
use crate::disk::{release_mount, state};
use crate::{Context, Settings, codes};

/// The boot code's place before the partition table of a BIOS disk.
const BIOS_CODE_MAX: usize = 440;

/// The lab target.
pub(crate) struct Lab<'a> {
    settings: &'a Settings,
    context: &'a Context<'a>,
    layout: Layout,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(settings: &'a Settings, context: &'a Context<'a>) -> Result<Self, Fault> {
        if let Some(disk) = &context.inventory.disk
            && disk.layout != Division::Single
        {
            return Err(stop(
                codes::LAYOUT,
                format!("the lab target knows no layout {:?}", disk.layout.name()),
                "set disk.layout = \"single\" in nodes/cluster.nix, or install NixOS",
            ));
        }
        Ok(Lab { settings, context, layout: Layout::of(context) })
    }

    /// Its sums say what the other files must be, so it does not come their way, unless the operator
    /// names another place of images. Read before the disk is touched, so nothing of it is kept there.
    async fn manifest<D: Disks>(&self, disks: &D) -> Result<Manifest, Fault> {
        let local = self.settings.disk.images.join("manifest.json");
        if let Some(text) = disks.read_file(&local).await? {
            return Manifest::parse(&text);
        }
        if self.settings.images_url.is_none() {
            return Manifest::parse(&disks.manifest().await?);
        }
        let path = self.settings.machine.path("/run/plasma/manifest.json");
        put_copy(disks, &self.url("manifest.json")?, &path, None).await?;
        Manifest::parse(&disks.read_file(&path).await?.unwrap_or_default())
    }

    fn url(&self, name: &str) -> Result<Source, Fault> {
        if self.context.images.is_empty() {
            return Err(stop(
                codes::IMAGE,
                format!("{name} is not in the running system, and no URL of the images is known"),
                "set images_url in firstboot.toml, or boot from the network",
            ));
        }
        Ok(Source::Url(format!("{}/{name}", self.context.images.trim_end_matches('/'))))
    }

    /// From the running system where it has the same file, else from the boot server.
    async fn put_image<D: Disks>(
        &self,
        disks: &D,
        manifest: &Manifest,
        name: &str,
    ) -> Result<(), Fault> {
        let expected = manifest.expected(name)?;
        let path = self.settings.disk.esp.join(name);
        // a run before this one may have been cut, and the boot server given other images since
        if disks.file_bytes(&path).await? == Some(expected.bytes)
            && disks.sum(&path).await?.as_ref() == Some(&expected)
        {
            return Ok(());
        }
        let local = self.settings.disk.images.join(name);
        if disks.file_bytes(&local).await? == Some(expected.bytes) {
            let source = Source::File(local);
            match put_copy(disks, &source, &path, Some(&expected)).await {
                Err(fault) if fault.code == codes::IMAGE => {
                    tracing::warn!(%fault, "the running image differs, fetching");
                }
                done => return done,
            }
        }
        put_copy(disks, &self.url(name)?, &path, Some(&expected)).await
    }

    /// What tells the image its cluster, as the boot server gave it to this boot.
    async fn cluster<D: Disks>(&self, disks: &D) -> Result<Vec<u8>, Fault> {
        let config = self.settings.machine.path("/etc/plasma/firstboot.toml");
        let ca = handed(disks, &self.settings.ca).await?;
        let config = handed(disks, &config).await?;
        Ok(cpio::newc(&[("etc/plasma/ca.pem", &ca), ("etc/plasma/firstboot.toml", &config)]))
    }

    async fn put_cluster<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        let archive = self.cluster(disks).await?;
        put(disks, &self.settings.disk.esp.join("ca.cpio"), &archive).await
    }

    async fn running<D: Disks>(&self, disks: &D) -> Result<String, Fault> {
        let running = read(disks, &self.settings.machine.path("/proc/cmdline")).await?;
        Ok(String::from_utf8_lossy(&running).into_owned())
    }

    /// The boot code of a BIOS, where the loader of UEFI is there too.
    async fn loaders<D: Disks>(&self, disks: &D) -> Result<Vec<u8>, Fault> {
        let uefi = &self.settings.disk.uefi_loader;
        if disks.file_bytes(uefi).await?.is_none_or(|bytes| bytes == 0) {
            return Err(no_loader(uefi));
        }
        let code = read(disks, &self.settings.disk.bios_code).await?;
        if code.is_empty() || code.len() > BIOS_CODE_MAX {
            return Err(no_loader(&self.settings.disk.bios_code));
        }
        Ok(code)
    }

    async fn put_loaders<D: Disks>(
        &self,
        disks: &D,
        disk: &Block,
        manifest: &Manifest,
    ) -> Result<(), Fault> {
        let esp = &self.settings.disk.esp;
        let code = self.loaders(disks).await?;
        let running = self.running(disks).await?;
        let arguments = boot::arguments(
            &running,
            self.context.machine_id,
            &manifest.expected("root.squashfs")?.sha256,
            &manifest.expected("plasma.squashfs")?.sha256,
        );
        let uefi = Source::File(self.settings.disk.uefi_loader.clone());
        let loader = esp.join("EFI/BOOT/BOOTX64.EFI");
        if disks.file_bytes(&loader).await?.is_none() {
            put_copy(disks, &uefi, &loader, None).await?;
        }
        let entry = boot::entry(self.context.node, &arguments);
        put(disks, &esp.join("loader/entries/plasma.conf"), entry.as_bytes()).await?;
        put(disks, &esp.join("loader/loader.conf"), boot::LOADER.as_bytes()).await?;
        let bios = boot::syslinux(&arguments);
        put(disks, &esp.join("syslinux.cfg"), bios.as_bytes()).await?;
        disks.bios_loader(esp, &part(&disk.path, 1)).await?;
        // the table's own bytes begin after the code
        disks.write(&disk.path, 0, &code).await
    }

    async fn mount_esp<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        let (device, esp) = (part(&disk.path, 1), &self.settings.disk.esp);
        if state::is_at(&disks.mounts().await?, &device, esp) {
            return Ok(());
        }
        disks.mount(&device, esp, "vfat").await
    }
}

impl Install for Lab<'_> {
    async fn check<D: Disks>(&self, disks: &D, _disk: &Block) -> Result<(), Fault> {
        self.manifest(disks).await?;
        self.cluster(disks).await?;
        self.running(disks).await?;
        self.loaders(disks).await.map(drop)
    }

    async fn lay_out<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        self.layout.make(disks, disk).await
    }

    async fn is_mounted<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault> {
        state::is_mounted(disks, self.settings, disk).await
    }

    async fn mount<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        state::mount_data(disks, self.settings, disk).await
    }

    async fn mount_state<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        state::bind_all(disks, self.settings).await
    }

    async fn is_marked<D: Disks>(&self, disks: &D) -> Result<bool, Fault> {
        self.layout.is_marked(disks, &self.settings.disk.data).await
    }

    async fn mark<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        self.layout.mark(disks, &self.settings.disk.data).await
    }

    async fn is_installed<D: Disks>(&self, disks: &D, _disk: &Block) -> Result<bool, Fault> {
        let record = disks.read_file(&self.record()).await?;
        Ok(Installed::of(record, self.context.install_id).is_some())
    }

    async fn install<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        let manifest = self.manifest(disks).await?;
        self.mount_esp(disks, disk).await?;
        for name in FILES {
            self.put_image(disks, &manifest, name).await?;
        }
        self.put_cluster(disks).await?;
        self.put_loaders(disks, disk, &manifest).await?;
        release_mount(disks, &self.settings.disk.esp).await?;
        let record = Installed::new(self.context.install_id, &manifest.kernel_release);
        put(disks, &self.record(), &record.encode()).await
    }
}

impl Lab<'_> {
    fn record(&self) -> PathBuf {
        self.settings.disk.data.join(RECORD)
    }
}

async fn read<D: Disks>(disks: &D, path: &Path) -> Result<Vec<u8>, Fault> {
    disks.read_file(path).await?.ok_or_else(|| no_loader(path))
}

/// What came beside the initrd.
async fn handed<D: Disks>(disks: &D, path: &Path) -> Result<Vec<u8>, Fault> {
    disks.read_file(path).await?.ok_or_else(|| {
        stop(
            codes::IMAGE,
            format!("this boot was given no {}", path.display()),
            "boot from the network: the boot server's ca.cpio has it",
        )
    })
}

fn no_loader(path: &Path) -> Fault {
    stop(
        codes::IMAGE,
        format!("the running image has no usable {}", path.display()),
        "build the image again with netboot/lab/build: it lacks a part that is installed from it",
    )
}
