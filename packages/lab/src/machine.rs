//! A virtual machine: QEMU with a network card that boots, and disks with serial numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fault::{Fault, Kind};
use testkit::Process;

use crate::codes;
use crate::console::Console;
use crate::disk::Disk;
use crate::qmp;

/// How its firmware starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS and the network card's iPXE.
    #[default]
    Bios,
    /// OVMF, which loads iPXE by TFTP.
    Uefi,
    /// OVMF, which loads iPXE by HTTP.
    UefiHttp,
}

/// Who computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// QEMU itself, in software.
    #[default]
    Tcg,
    /// The processor.
    Kvm,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What the lab calls it.
    pub name: String,
    /// The serial number in its firmware.
    pub serial: String,
    /// The UUID in its firmware.
    pub uuid: String,
    /// Its network card.
    pub mac: String,
    /// The address that its node has.
    pub address: String,
    /// Its tap device.
    pub tap: String,
    /// Its disks, in the order of their slots.
    pub disks: Vec<Disk>,
    /// Its firmware.
    pub firmware: Firmware,
    /// Who computes.
    pub accel: Accel,
    /// Its memory in MiB.
    pub memory: u32,
    /// Its processors.
    pub cpus: u32,
    /// What its clock says at power-on (`2016-01-01`), where that is not the time.
    pub clock: Option<String>,
}

/// A machine, on or off. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    /// What it is made of; what is changed holds from the next power-on.
    pub spec: Spec,
    /// Its serial line since the last power-on.
    pub console: Console,
    dir: PathBuf,
    running: Option<Process>,
    powered: Instant,
    powered_unix: u64,
}

impl Machine {
    /// A machine that is off.
    pub fn new(dir: &Path, spec: Spec) -> Result<Machine> {
        fs::create_dir_all(dir)?;
        let console = Console::from_end(&dir.join("console.log"));
        let now = Instant::now();
        Ok(Machine {
            spec,
            console,
            dir: dir.to_owned(),
            running: None,
            powered: now,
            powered_unix: 0,
        })
    }

    /// Presses the button. The thread that does this must live as long as the machine is on.
    pub fn power_on(&mut self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        let _ = fs::remove_file(self.qmp());
        let command = self.command()?;
        self.console = Console::from_end(&self.dir.join("console.log"));
        self.powered = Instant::now();
        self.powered_unix = unix_millis();
        let log = self.dir.join("qemu.log");
        let running = Process::spawn(&self.spec.name, command, &log).map_err(|error| {
            let hint = "install qemu-system-x86 and util-linux";
            Fault::new(codes::MACHINE, Kind::Unavailable, format!("{error:#}"), hint)
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Pulls the plug: SIGKILL. What the machine had not written to its disk is lost.
    pub fn power_cut(&mut self) {
        if let Some(mut process) = self.running.take() {
            process.kill();
        }
    }

    /// Asks it to shut down, and waits until it is off.
    pub async fn power_down(&mut self, deadline: Duration) -> Result<()> {
        qmp::call(&self.qmp(), "system_powerdown").await?;
        if let Some(process) = &mut self.running {
            process.wait(deadline).await?;
        }
        self.running = None;
        Ok(())
    }

    /// Presses the reset button.
    pub async fn reset(&mut self) -> Result<()> {
        qmp::call(&self.qmp(), "system_reset").await.map(drop)
    }

    /// Whether it has power.
    pub fn is_on(&mut self) -> bool {
        self.running.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Since the last power-on.
    pub fn uptime(&self) -> Duration {
        self.powered.elapsed()
    }

    /// When it was last powered on, in Unix milliseconds.
    pub fn powered_unix(&self) -> u64 {
        self.powered_unix
    }

    /// CPU time that emulating it has taken since the last power-on.
    pub fn cpu(&self) -> Duration {
        self.running.as_ref().and_then(|process| process.cpu().ok()).unwrap_or_default()
    }

    /// Fails when it went off by itself, with QEMU's last words.
    pub fn check(&mut self) -> Result<()> {
        if self.running.is_some() && !self.is_on() {
            let log = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
            let what = format!("{} went off by itself: {}", self.spec.name, log.trim());
            return Err(Fault::new(codes::MACHINE, Kind::Internal, what, "").into());
        }
        Ok(())
    }

    fn qmp(&self) -> PathBuf {
        self.dir.join("qmp")
    }

    fn command(&self) -> Result<Command> {
        let spec = &self.spec;
        // QEMU must not outlive this process, however it ends
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        let mut add = |name: &str, value: String| {
            command.arg(name).arg(value);
        };
        add("-name", spec.name.clone());
        add("-machine", "pc,graphics=off".to_owned());
        match spec.accel {
            Accel::Tcg => {
                add("-accel", "tcg,thread=multi,tb-size=256".to_owned());
                add("-cpu", "max".to_owned());
            }
            Accel::Kvm => {
                add("-accel", "kvm".to_owned());
                add("-cpu", "host".to_owned());
            }
        }
        add("-smp", spec.cpus.to_string());
        add("-m", spec.memory.to_string());
        add(
            "-smbios",
            format!(
                "type=1,manufacturer=PlasmaCloud,product=Lab,serial={},uuid={}",
                spec.serial, spec.uuid
            ),
        );
        if let Some(clock) = &spec.clock {
            add("-rtc", format!("base={clock}"));
        }
        add("-netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", spec.tap));
        // OVMF boots from the network by itself; with the card's iPXE it would do so twice
        let rom = if spec.firmware == Firmware::Bios { "" } else { ",romfile=" };
        add("-device", format!("virtio-net-pci,netdev=net0,mac={},bootindex=1{rom}", spec.mac));
        for (slot, disk) in spec.disks.iter().enumerate() {
            // the host outlives the machine: what the machine flushed is safe without a real flush
            add(
                "-drive",
                format!(
                    "if=none,id=disk{slot},file={},format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap",
                    disk.path.display()
                ),
            );
            add(
                "-device",
                format!(
                    "virtio-blk-pci,drive=disk{slot},serial={},bootindex={}",
                    disk.serial,
                    slot + 2
                ),
            );
        }
        add("-device", "virtio-rng-pci".to_owned());
        if spec.firmware != Firmware::Bios {
            let vars = self.dir.join("vars.fd");
            if !vars.exists() {
                fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars)
                    .context("OVMF's variables: install ovmf")?;
            }
            add(
                "-drive",
                "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"
                    .to_owned(),
            );
            add("-drive", format!("if=pflash,format=raw,unit=1,file={}", vars.display()));
        }
        for (option, off) in [
            ("IPv4PXESupport", spec.firmware == Firmware::UefiHttp),
            ("IPv6PXESupport", spec.firmware != Firmware::Bios),
            ("IPv6Support", spec.firmware != Firmware::Bios),
        ] {
            if off {
                add("-fw_cfg", format!("name=opt/org.tianocore/{option},string=n"));
            }
        }
        add(
            "-chardev",
            format!("file,id=serial,path={},append=on", self.dir.join("console.log").display()),
        );
        add("-serial", "chardev:serial".to_owned());
        add("-qmp", format!("unix:{},server=on,wait=off", self.qmp().display()));
        command.args(["-nodefaults", "-display", "none", "-no-user-config"]);
        Ok(command)
    }
}

fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
