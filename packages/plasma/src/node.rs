//! `plasma node`, `plasma boot explain` and `plasma machines`: what the boot server knows of the
//! machines, and what it tells them.
#![allow(clippy::print_stderr)] // a command speaks to people

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bootserver::wire::{self, NodeOrder};
use fault::{Fault, Kind};
use serde::Serialize;

use crate::print::{Output, bytes, columns, render, result};
use crate::remote::Remote;
use crate::ssh::{self, SshArgs};
use crate::{codes, plan};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes: what their machines are told at the next boot, and how far they are.
    #[command(after_help = "Examples:\n  plasma node list\n  plasma node list -o json")]
    List,
    /// Erase a node's disk and install it again, at its next boot; it keeps its place and key.
    #[command(
        after_help = "Examples:\n  plasma node wipe node02\n  plasma node wipe node02 --yes && plasma node reboot node02"
    )]
    Wipe(Destructive),
    /// Give a node's place to another machine: it is installed there, and the old key is refused.
    #[command(
        after_help = "Examples:\n  plasma node replace node02\n  plasma node replace node02 --yes -o json"
    )]
    Replace(Destructive),
    /// Boot the rescue system at the node's next boot; it touches no disk and lets operators in.
    #[command(
        after_help = "Examples:\n  plasma node rescue node02\n  plasma node rescue node02 --sticky\n  plasma node run node02        (takes it back)"
    )]
    Rescue {
        /// Its name in the inventory.
        node: String,
        /// At every boot, until `plasma node run`.
        #[arg(long)]
        sticky: bool,
    },
    /// Take back what was ordered and has not begun: the node runs what is installed.
    #[command(after_help = "Examples:\n  plasma node run node02")]
    Run {
        /// Its name in the inventory.
        node: String,
    },
    /// Reboot a node over SSH, and wait until it is back.
    #[command(
        after_help = "Examples:\n  plasma node reboot node02\n  plasma node reboot node02 --wait 0"
    )]
    Reboot {
        /// Its name in the inventory.
        node: String,
        /// So long; 0 does not wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
        #[command(flatten)]
        ssh: SshArgs,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Destructive {
    /// Its name in the inventory.
    node: String,
    /// It is meant: do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BootCommand {
    /// What a node's machine is told at its next boot, why, and the script.
    #[command(
        after_help = "Examples:\n  plasma boot explain node01\n  plasma boot explain node01 -o json"
    )]
    Explain {
        /// Its name in the inventory.
        node: String,
    },
}

pub(crate) async fn node(
    remote: &Remote,
    command: NodeCommand,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        NodeCommand::List => list(remote, output).await,
        NodeCommand::Wipe(args) => {
            let loss = "its disk will be erased at its next boot";
            destroy(remote, &args, NodeOrder::Install, loss, output).await
        }
        NodeCommand::Replace(args) => {
            let loss = "the disk of the machine that takes its place will be erased, and the \
                        machine that runs it now gets no certificate again";
            destroy(remote, &args, NodeOrder::Replace, loss, output).await
        }
        NodeCommand::Rescue { node, sticky } => {
            order(remote, &node, NodeOrder::Rescue, sticky, output).await
        }
        NodeCommand::Run { node } => order(remote, &node, NodeOrder::Run, false, output).await,
        NodeCommand::Reboot { node, wait, ssh } => {
            Ok(ssh::reboot(remote, &node, &ssh, Duration::from_secs(wait)).await?)
        }
    }
}

/// A row of `plasma node list`.
#[derive(Serialize)]
struct Row<'a> {
    node: &'a str,
    #[serde(flatten)]
    status: &'a wire::NodeStatus,
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let status = remote.operator()?.status().await?;
    let rows: Vec<Row> = status.nodes.iter().map(|(node, status)| Row { node, status }).collect();
    result(&render(output, &rows, || {
        let header = ["NODE", "ADDRESS", "ROLES", "NEXT BOOT", "ENROLLED", "FIRST BOOT"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        table.extend(rows.iter().map(|row| {
            let status = row.status;
            let progress = status.report.as_ref().map(|report| &report.progress);
            vec![
                row.node.to_owned(),
                status.address.clone(),
                status.roles.join(" "),
                or_dash(&status.decision),
                if status.enrolled.is_some() { "yes" } else { "no" }.to_owned(),
                progress.map_or("-".to_owned(), |p| format!("{} {}", p.step, p.state)),
            ]
        }));
        columns(&table)
    })?);
    Ok(())
}

async fn destroy(
    remote: &Remote,
    args: &Destructive,
    what: NodeOrder,
    loss: &str,
    output: Output,
) -> anyhow::Result<()> {
    let status = remote.operator()?.status().await?;
    let known = ssh::find(&status, &args.node)?;
    if !args.yes {
        confirm(&args.node, known, loss)?;
    }
    order(remote, &args.node, what, false, output).await
}

/// The name has to be typed: a yes is typed by habit.
fn confirm(node: &str, known: &wire::NodeStatus, loss: &str) -> Result<(), Fault> {
    let refuse = |hint: String| {
        Err(Fault::new(
            codes::UNCONFIRMED,
            Kind::Precondition,
            format!("{node}: {loss}; this was not confirmed, and nothing was ordered"),
            hint,
        ))
    };
    if !std::io::stdin().is_terminal() {
        return refuse("give --yes where nobody can be asked".to_owned());
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{node} ({}): {loss}.\nType its name to go on: ", known.address);
    let _ = stderr.flush();
    let mut typed = String::new();
    let _ = std::io::stdin().read_line(&mut typed);
    if typed.trim() == node { Ok(()) } else { refuse(format!("type {node}, or give --yes")) }
}

async fn order(
    remote: &Remote,
    node: &str,
    order: NodeOrder,
    sticky: bool,
    output: Output,
) -> anyhow::Result<()> {
    let explained = remote.operator()?.order(node, order, sticky).await?;
    let next = match order {
        NodeOrder::Install | NodeOrder::Rescue => {
            format!("it begins at its next boot: plasma node reboot {node}")
        }
        NodeOrder::Replace => "power the new machine on, with its MAC addresses and disk in the \
                               inventory"
            .to_owned(),
        NodeOrder::Run => after_run(node, &explained.decision),
    };
    result(&render(output, &explained, || {
        let reasons: String = explained.reasons.iter().map(|line| format!("  {line}\n")).collect();
        format!("{node}: {}\n{reasons}", plan::decision_words(&explained.decision))
    })?);
    eprintln!("{next}");
    Ok(())
}

/// What is left to do when a node was told to run what is installed.
fn after_run(node: &str, decision: &str) -> String {
    match decision {
        "localdisk" | "run" => "nothing is left to do".to_owned(),
        // a rescue was taken back, and an install waits behind it
        "install" => format!(
            "it is still installed at its next boot; to take that back too, unless it has begun: \
             plasma node run {node}"
        ),
        _ => format!("it does not run what is installed yet; why: plasma boot explain {node}"),
    }
}

/// `plasma boot explain NODE`
pub(crate) async fn explain(remote: &Remote, node: &str, output: Output) -> anyhow::Result<()> {
    let explained = remote.operator()?.explain(node).await?;
    result(&render(output, &explained, || explained_text(&explained))?);
    Ok(())
}

fn explained_text(explained: &wire::Explained) -> String {
    let mut text = format!("{}: {}\n", explained.node, plan::decision_words(&explained.decision));
    for reason in &explained.reasons {
        let _ = writeln!(text, "  because {reason}");
    }
    if !explained.script.is_empty() {
        let _ = writeln!(text, "script:");
        for line in explained.script.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// `plasma machines`
pub(crate) async fn machines(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let machines = remote.operator()?.machines().await?.machines;
    let now = time::OffsetDateTime::now_utc().unix_timestamp().unsigned_abs() * 1000;
    result(&render(output, &machines, || machines_table(&machines, now))?);
    Ok(())
}

pub(crate) fn machines_table(machines: &[wire::MachineSeen], now_millis: u64) -> String {
    if machines.is_empty() {
        return "no machine has asked yet\n".to_owned();
    }
    let header = ["MAC", "ADDRESS", "SERIAL", "ARCH", "NODE", "SEEN", "MEMORY", "DISKS"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    for machine in machines {
        let hardware = machine.hardware.as_ref();
        let disks = hardware.map(|h| h.disks.iter().map(plan::disk_words).collect::<Vec<_>>());
        table.push(vec![
            or_dash(&machine.mac),
            or_dash(&machine.address),
            machine.serial.clone().unwrap_or_else(|| "-".to_owned()),
            or_dash(&machine.arch),
            machine.node.clone().unwrap_or_else(|| "unknown".to_owned()),
            format!("{} ago", ago(now_millis.saturating_sub(machine.last_seen))),
            hardware
                .map_or("-".to_owned(), |h| bytes(h.memory_bytes.try_into().unwrap_or(i64::MAX))),
            disks.filter(|disks| !disks.is_empty()).map_or("-".to_owned(), |d| d.join(", ")),
        ]);
    }
    columns(&table)
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn ago(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_run_says_what_is_so() {
        assert_eq!(after_run("node01", "localdisk"), "nothing is left to do");
        for (decision, words) in [
            ("install", "still installed at its next boot"),
            ("wait", "plasma boot explain node01"),
            ("rescue", "plasma boot explain node01"),
        ] {
            let line = after_run("node01", decision);
            assert!(line.contains(words) && !line.contains("nothing is left"), "{line}");
        }
    }

    #[test]
    fn machines_are_listed_with_what_is_in_them() {
        let disk = wire::DiskSeen {
            name: "vda".into(),
            bytes: 4 << 30,
            serial: Some("D1".into()),
            traces: vec!["ext4".into()],
            ..Default::default()
        };
        let hardware =
            wire::Hardware { memory_bytes: 1 << 30, disks: vec![disk], ..Default::default() };
        let known = wire::MachineSeen {
            mac: "52:54:00:20:00:11".into(),
            address: "10.20.0.11".into(),
            serial: Some("PLASMA-NODE01".into()),
            arch: "x86_64".into(),
            node: Some("node01".into()),
            last_seen: 60_000,
            hardware: Some(hardware),
            ..Default::default()
        };
        let stranger = wire::MachineSeen {
            mac: "52:54:00:00:00:99".into(),
            last_seen: 1,
            ..Default::default()
        };
        let expected = "\
MAC                ADDRESS     SERIAL         ARCH    NODE     SEEN      MEMORY   DISKS
52:54:00:20:00:11  10.20.0.11  PLASMA-NODE01  x86_64  node01   5 s ago   1.0 GiB  vda D1 4.0 GiB ext4
52:54:00:00:00:99  -           -              -       unknown  64 s ago  -        -
";
        assert_eq!(machines_table(&[known, stranger], 65_000), expected);
        assert_eq!(ago(3_600_000), "60 min");
        assert_eq!(ago(36_000_000), "10 h");
    }
}
