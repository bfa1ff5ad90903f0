//! `lab up`: blank machines to a formed cluster, with live progress.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command speaks to people

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fault::Fault;

use crate::lab::{Lab, Options, joined, late, name};
use crate::machine::{Accel, Firmware};
use crate::timing::{Times, all_joined, table, times, together};
use crate::{accel, image};

/// Longer takes no install that goes on.
const PATIENCE: Duration = Duration::from_secs(900);

/// `lab up`
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// How many machines.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// One node alone: node02.
    #[arg(long, value_name = "NODE", conflicts_with = "nodes", value_parser = number)]
    only: Option<usize>,
    /// UEFI firmware that loads iPXE by TFTP, instead of BIOS.
    #[arg(long)]
    uefi: bool,
    /// UEFI firmware that loads iPXE by HTTP.
    #[arg(long)]
    http_boot: bool,
    /// A foreign DHCP server gives the addresses, the boot server only what to boot.
    #[arg(long)]
    proxy_dhcp: bool,
    /// Let the machines run until Ctrl-C, and keep the folder.
    #[arg(long)]
    keep: bool,
    /// Also boot the same kernel and root without the agent, and one machine alone, for the ratios.
    #[arg(long)]
    times: bool,
    /// Who computes; auto tries whether KVM runs a guest here.
    #[arg(long, value_enum, default_value_t)]
    accel: AccelArg,
    /// The folder of binaries; without it, the one this program lies in.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Where disks, consoles and the boot server's state go; without it a temporary folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn number(text: &str) -> Result<usize> {
    let number = text.strip_prefix("node").and_then(|digits| digits.parse().ok());
    number.filter(|number| (1..=9).contains(number)).context("use node01 to node09")
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum AccelArg {
    #[default]
    Auto,
    Tcg,
    Kvm,
}

/// Runs it.
pub fn up(args: &UpArgs) -> Result<()> {
    let bins = args.bin.clone().map(std::path::absolute).transpose()?;
    eprintln!("making the image (cached by its inputs)");
    let image = image::image(bins.as_deref())?;
    eprintln!("{}", sizes(&image.files()?));
    let accel = match args.accel {
        AccelArg::Auto => accel(&image.dir.join("vmlinuz")),
        AccelArg::Tcg => Accel::Tcg,
        AccelArg::Kvm => Accel::Kvm,
    };
    let (dir, temporary) = match &args.dir {
        Some(dir) => (std::path::absolute(dir)?, None),
        None => {
            let made = tempfile::Builder::new().prefix("plasma-lab-").tempdir()?;
            (made.path().to_owned(), Some(made))
        }
    };
    let firmware = match (args.http_boot, args.uefi) {
        (true, _) => Firmware::UefiHttp,
        (false, true) => Firmware::Uefi,
        (false, false) => Firmware::Bios,
    };
    let options = Options {
        bins,
        nodes: args.only.map_or_else(|| (1..=args.nodes.into()).collect(), |only| vec![only]),
        firmware,
        accel,
        proxy_dhcp: args.proxy_dhcp,
        ..Options::new(&dir, &image.dir)
    };
    let count = options.nodes.len();
    eprintln!("{count} machine(s), {firmware:?}, {accel:?}, in {}", dir.display());
    let mut columns: Vec<(String, Times)> = Vec::new();
    let mut bare = None;
    let mut alone = None;
    if args.times {
        let scratch = tempfile::Builder::new().prefix("plasma-lab-").tempdir()?;
        let bare_times = on_its_own_thread(|| bare_boot(&options, &scratch.path().join("bare")))?;
        bare = bare_times.marks.get("bare").copied();
        columns.push(("bare".to_owned(), bare_times));
        if count > 1 {
            let one =
                Options { dir: scratch.path().join("one"), nodes: vec![1], ..options.clone() };
            let joined = on_its_own_thread(|| run(&one, false))?;
            alone = all_joined(&joined);
            columns.extend(joined.into_iter().map(|times| ("one alone".to_owned(), times)));
        }
    }
    let done = on_its_own_thread(|| run(&options, args.keep));
    // what failed is looked into: consoles and logs stay
    if args.keep || done.as_ref().is_err_and(|error| error.is::<Fault>()) {
        temporary.map(tempfile::TempDir::keep);
    }
    let all = done?;
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let ratio = alone.and_then(|alone| together(&all, alone, cores));
    columns.extend(all.into_iter().map(|times| (times.node.clone(), times)));
    println!("\n{}", table(&columns, bare));
    if let Some(ratio) = ratio {
        println!("{ratio}");
    }
    Ok(())
}

/// How much a machine fetches.
fn sizes(files: &[(String, u64)]) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each: Vec<String> =
        files.iter().map(|(name, bytes)| format!("{name} {:.1}", mib(*bytes))).collect();
    let together = mib(files.iter().map(|(_, bytes)| bytes).sum());
    format!("image: {together:.1} MiB ({})", each.join(", "))
}

/// A lab takes its thread into its network; the next lab gets a thread that is still outside.
fn on_its_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(_) => bail!("the lab's thread panicked"),
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn run(options: &Options, keep: bool) -> Result<Vec<Times>> {
    let mut lab = Lab::prepare(options)?;
    runtime()?.block_on(async {
        let work = async {
            lab.server.start().await?;
            lab.power_on()?;
            let times = watch(&mut lab).await?;
            let members = lab.prove(options.nodes.len()).await?;
            println!("\na cluster of {} voting member(s):", members.len());
            for member in &members {
                println!("  {:016x}  {:<8} {}", member.id, member.name, member.peer_urls.join(" "));
            }
            Ok::<_, anyhow::Error>(times)
        };
        let times = tokio::select! {
            done = work => done,
            () = telemetry::stop_signal() => bail!("stopped"),
        }?;
        if keep {
            println!("\n{}", invitation(options));
            telemetry::stop_signal().await;
        }
        Ok(times)
    })
}

/// What one can do with a lab that is kept.
fn invitation(options: &Options) -> String {
    let node = name(options.nodes.first().copied().unwrap_or(1));
    format!("it runs until Ctrl-C; get in with: plasma --dir {} ssh {node}", options.dir.display())
}

/// Shows what changes until all have joined.
async fn watch(lab: &mut Lab) -> Result<Vec<Times>> {
    let begun = Instant::now();
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut done: BTreeMap<String, Times> = BTreeMap::new();
    while done.len() < lab.machines.len() {
        if begun.elapsed() > PATIENCE {
            let dir = lab.dir().display();
            return Err(late(format!("not all have joined after {PATIENCE:?}, in {dir}")));
        }
        lab.look()?;
        let status = lab.server.status().await.context("ask the boot server")?;
        for machine in &lab.machines {
            let node = machine.spec.name.clone();
            let known = status.nodes.get(&node);
            let fresh = known
                .and_then(|known| known.report.as_ref())
                .filter(|report| report.received > machine.powered_unix());
            let line = match (fresh, machine.console.mark("kernel"), machine.console.mark("rom")) {
                (Some(report), ..) => {
                    let progress = &report.progress;
                    format!("{:<9} {} {}", progress.step, progress.state, progress.detail)
                }
                (None, Some(_), _) => "kernel".to_owned(),
                (None, None, Some(_)) => "iPXE".to_owned(),
                (None, None, None) => "power on".to_owned(),
            };
            if shown.get(&node) != Some(&line) {
                eprintln!(
                    "[{:>6.1} s] {node}  {}",
                    machine.uptime().as_secs_f64(),
                    line.trim_end()
                );
                shown.insert(node.clone(), line);
            }
            if let Some(known) = known
                && joined(known, machine)
                && !done.contains_key(&node)
            {
                done.insert(node, times(machine, Some(known)));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(done.into_values().collect())
}

/// The same kernel and root without the agent.
fn bare_boot(options: &Options, dir: &std::path::Path) -> Result<Times> {
    let mut options = Options { dir: dir.to_owned(), nodes: vec![1], ..options.clone() };
    options.server.extra_args = vec!["plasma.agent=off".to_owned()];
    let mut lab = Lab::prepare(&options)?;
    runtime()?.block_on(async {
        lab.server.start().await?;
        lab.power_on()?;
        eprintln!("bare boot, without the agent");
        lab.wait_said(1, "bare boot ready", PATIENCE).await?;
        Ok(times(lab.machines.first().context("a machine")?, None))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_told_by_its_parts() {
        let files = [("initrd".to_owned(), 3 << 19), ("vmlinuz".to_owned(), 8 << 20)];
        assert_eq!(sizes(&files), "image: 9.5 MiB (initrd 1.5, vmlinuz 8.0)");
    }

    #[test]
    fn the_invitation_names_a_machine_that_is_there() {
        let mut options = Options::new("/tmp/lab".as_ref(), "/images".as_ref());
        assert!(invitation(&options).ends_with("plasma --dir /tmp/lab ssh node01"));
        options.nodes = vec![2];
        assert!(invitation(&options).ends_with("plasma --dir /tmp/lab ssh node02"));
    }
}
