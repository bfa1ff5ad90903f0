//! The NixOS target: the node's disko script lays out and mounts, nixos-install puts the node's
//! system there, and kexec goes over to it (a reboot, where kexec is refused).
//!
//! The image holds, per node, a folder with: `format-mount` and `mount` (disko's scripts),
//! `devices` (the devices they use, one a line), `system` (the store path of the node's system).
//! The system's closure is in the image's own store, and nowhere else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fault::{Fault, Kind};

use super::{GOING_DOWN, Install, Installed, RECORD};
use crate::disk::{Block, Disks, Layout, put, state, stop, teardown};
use crate::{Context, Settings, codes};

const LAY_OUT: Duration = Duration::from_secs(600);
const COPY: Duration = Duration::from_secs(3000);
const SHORT: Duration = Duration::from_secs(120);
/// Where the node's state lives in the system.
const STATE: &str = "var/lib/plasma";

/// The NixOS target.
pub(crate) struct NixOs<'a> {
    settings: &'a Settings,
    context: &'a Context<'a>,
    layout: Layout,
}

impl<'a> NixOs<'a> {
    pub(crate) fn new(settings: &'a Settings, context: &'a Context<'a>) -> Self {
        NixOs { settings, context, layout: Layout::of(context) }
    }

    fn part(&self, name: &str) -> PathBuf {
        self.settings.disk.nixos.join(self.context.node).join(name)
    }

    async fn text<D: Disks>(&self, disks: &D, name: &str) -> Result<String, Fault> {
        let path = self.part(name);
        let bytes = disks.read_file(&path).await?.ok_or_else(|| not_in_image(&path))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The wrong-disk guard once more: the scripts name devices of their own.
    async fn check_devices<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        let devices = self.text(disks, "devices").await?;
        let blocks = disks.blocks().await?;
        let chosen = crate::disk::chosen(&blocks, self.context)?;
        for device in devices.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let real = disks.real_path(Path::new(device)).await?;
            if !chosen.iter().any(|disk| Path::new(&disk.path) == real) {
                return Err(stop(
                    codes::DISK_CHANGED,
                    format!(
                        "the disko script means {} and the inventory {}",
                        real.display(),
                        disk.path
                    ),
                    "make nodes/<node>/disko.nix take its device from the inventory",
                ));
            }
        }
        Ok(())
    }

    /// What is installed is in the image, whole.
    async fn system<D: Disks>(&self, disks: &D) -> Result<String, Fault> {
        let system = self.text(disks, "system").await?;
        if !system.starts_with("/nix/store/") || system.contains(char::is_whitespace) {
            return Err(stop(
                codes::NIXOS,
                format!("{system:?} is no system's store path"),
                "build the image again",
            ));
        }
        if disks.file_bytes(&Path::new(&system).join("init")).await?.is_none() {
            return Err(stop(
                codes::NIXOS,
                format!("the image's store has no {system}/init"),
                "build the image with every node's system in it, as netboot/node.nix does",
            ));
        }
        Ok(system)
    }

    async fn ca<D: Disks>(&self, disks: &D) -> Result<Vec<u8>, Fault> {
        disks.read_file(&self.settings.ca).await?.ok_or_else(|| {
            stop(
                codes::NIXOS,
                format!("the cluster's CA is not in {}", self.settings.ca.display()),
                "give the image the credential plasma.ca: the boot server's ca.cpio has it",
            )
        })
    }

    /// Where the installed system's root is: itself, or mounted to be installed.
    async fn root<D: Disks>(&self, disks: &D, disk: &Block) -> Result<Option<PathBuf>, Fault> {
        let blocks = disks.blocks().await?;
        let on_it = teardown::stacked(&blocks, &disk.path);
        let mounts = disks.mounts().await?;
        for place in [Path::new("/"), &self.settings.disk.root] {
            let mount = mounts.iter().rfind(|mount| Path::new(&mount.place) == place);
            if mount.is_some_and(|mount| on_it.iter().any(|block| block.path == mount.device)) {
                return Ok(Some(place.to_owned()));
            }
        }
        Ok(None)
    }

    /// Marks and records are where the running system has them, or where it will.
    async fn state<D: Disks>(&self, disks: &D) -> Result<PathBuf, Fault> {
        let mounts = disks.mounts().await?;
        let root = &self.settings.disk.root;
        let there = mounts.iter().any(|mount| Path::new(&mount.place) == root);
        Ok(if there { root.join(STATE) } else { Path::new("/").join(STATE) })
    }

    async fn run_script<D: Disks>(&self, disks: &D, name: &str) -> Result<(), Fault> {
        disks.run(&self.part(name).to_string_lossy(), &[], LAY_OUT).await
    }

    async fn put_system<D: Disks>(&self, disks: &D, system: &str) -> Result<(), Fault> {
        let root = self.settings.disk.root.to_string_lossy().into_owned();
        let args = ["--root", &root, "--system", system, "--no-root-passwd", "--no-channel-copy"];
        disks.run("nixos-install", &args.map(str::to_owned), COPY).await
    }

    /// What the system must find at its first start: whom to trust, the token that is not spent
    /// yet, and which machine it is. The id comes before nixos-install, whose boot entries bear it.
    async fn put_identity<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        let etc = self.settings.disk.root.join("etc");
        let id = format!("{}\n", self.context.machine_id);
        put(disks, &etc.join("machine-id"), id.as_bytes()).await?;
        let store = etc.join("credstore");
        let folder = store.to_string_lossy().into_owned();
        let args = ["-d", "-m", "0700", "--", &folder];
        disks.run("install", &args.map(str::to_owned), SHORT).await?;
        let ca = self.ca(disks).await?;
        put(disks, &store.join("plasma.ca"), &ca).await?;
        if let Some(token) = disks.read_file(&self.settings.token_file).await? {
            put(disks, &store.join("plasma.join-token"), &token).await?;
        }
        Ok(())
    }

    /// All that was installed is on the disk, and not only in memory.
    async fn sync<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        let root = &self.settings.disk.root;
        let mounts = disks.mounts().await?;
        let within = mounts.iter().filter(|mount| Path::new(&mount.place).starts_with(root));
        let mut args = vec!["--file-system".to_owned(), "--".to_owned()];
        args.extend(within.map(|mount| mount.place.clone()));
        disks.run("sync", &args, COPY).await
    }

    /// Goes over to the installed system. The step's probe finds it there. Where kexec is refused, a
    /// machine that comes from the network again, `again`, would do so after every reboot.
    async fn leave<D: Disks>(&self, disks: &D, system: &str, again: bool) -> Result<(), Fault> {
        let within = self.settings.disk.root.join(system.trim_start_matches('/'));
        let params = disks.read_file(&within.join("kernel-params")).await?.unwrap_or_default();
        let line = format!(
            "init={system}/init {} systemd.machine_id={}",
            String::from_utf8_lossy(&params).trim(),
            self.context.machine_id
        );
        let (kernel, initrd) = (within.join("kernel"), within.join("initrd"));
        let load = [
            "--load".to_owned(),
            kernel.to_string_lossy().into_owned(),
            format!("--initrd={}", initrd.to_string_lossy()),
            format!("--command-line={line}"),
        ];
        let verb = match disks.run("kexec", &load, SHORT).await {
            Ok(()) => "kexec",
            Err(fault) if again => {
                return Err(stop(
                    codes::NIXOS,
                    format!("the system is installed, and cannot be gone over to: {fault}"),
                    "boot the disk once, by the firmware's boot menu: kexec is refused here, as by Secure Boot's lockdown",
                ));
            }
            Err(fault) => {
                tracing::warn!(%fault, "kexec is refused, rebooting instead");
                "reboot"
            }
        };
        disks.run("systemctl", &[verb.to_owned()], SHORT).await?;
        tokio::time::sleep(GOING_DOWN).await;
        Err(Fault::new(
            codes::NIXOS,
            Kind::Unavailable,
            format!(
                "the machine does not go down, {} s after systemctl {verb}",
                GOING_DOWN.as_secs()
            ),
            "reboot it: the system is installed",
        ))
    }
}

fn not_in_image(path: &Path) -> Fault {
    stop(
        codes::NIXOS,
        format!("the image has no {}", path.display()),
        "build the image from the inventory that names this node",
    )
}

impl Install for NixOs<'_> {
    async fn check<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        for script in ["format-mount", "mount"] {
            let path = self.part(script);
            disks.file_bytes(&path).await?.ok_or_else(|| not_in_image(&path))?;
        }
        self.system(disks).await?;
        self.ca(disks).await?;
        self.check_devices(disks, disk).await
    }

    async fn lay_out<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        self.check_devices(disks, disk).await?;
        self.run_script(disks, "format-mount").await
    }

    async fn is_mounted<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault> {
        Ok(match self.root(disks, disk).await? {
            Some(root) if root == Path::new("/") => true,
            Some(_) => state::is_bound(disks, &self.binds()).await?,
            None => false,
        })
    }

    async fn mount<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        if self.root(disks, disk).await?.is_some() {
            return Ok(());
        }
        self.check_devices(disks, disk).await?;
        self.run_script(disks, "mount").await
    }

    async fn mount_state<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        let root = &self.settings.disk.root;
        if !disks.mounts().await?.iter().any(|mount| Path::new(&mount.place) == root) {
            return Ok(());
        }
        state::bind_each(disks, &self.binds()).await
    }

    async fn is_marked<D: Disks>(&self, disks: &D) -> Result<bool, Fault> {
        self.layout.is_marked(disks, &self.state(disks).await?).await
    }

    async fn mark<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        self.layout.mark(disks, &self.state(disks).await?).await
    }

    async fn is_installed<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault> {
        let runs = self.root(disks, disk).await?.as_deref() == Some(Path::new("/"));
        let record = disks.read_file(&Path::new("/").join(STATE).join(RECORD)).await?;
        Ok(runs && Installed::of(record, self.context.install_id).is_some())
    }

    async fn install<D: Disks>(&self, disks: &D, _disk: &Block) -> Result<(), Fault> {
        let record = self.state(disks).await?.join(RECORD);
        let before = Installed::of(disks.read_file(&record).await?, self.context.install_id);
        let system = match &before {
            Some(record) => record.system.clone(),
            None => self.system(disks).await?,
        };
        let again = before.is_some();
        if !again {
            self.put_identity(disks).await?;
            self.put_system(disks, &system).await?;
            // the record says that the whole system is there, also after a power cut
            self.sync(disks).await?;
            let done = Installed::new(self.context.install_id, &system);
            put(disks, &record, &done.encode()).await?;
        }
        self.leave(disks, &system, again).await
    }
}

impl NixOs<'_> {
    /// The agent's keys must be in the system that is installed.
    fn binds(&self) -> Vec<(PathBuf, PathBuf)> {
        let root = &self.settings.disk.root;
        let inside = |place: &Path| root.join(place.strip_prefix("/").unwrap_or(place));
        let place = &self.settings.state_dir;
        vec![(inside(place), place.clone())]
    }
}
