//! `plasma ssh` and `plasma node reboot`: the node's address and host key come from the boot
//! server, which has them from the inventory and from the node's enrolment.
#![allow(clippy::print_stderr)] // a command speaks to people

mod session;
mod shell;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bootserver::wire;
use fault::{Fault, Kind};

use self::session::Target;
use crate::codes;
use crate::remote::Remote;

/// Who logs in, and where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SshArgs {
    /// This private key and no other [default: the lab's, then the agent's, then ~/.ssh].
    #[arg(long, short = 'i', value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Log in as this user.
    #[arg(long, short = 'l', value_name = "NAME", default_value = "root")]
    user: String,
    /// The port of the node's SSH server.
    #[arg(long, short = 'p', value_name = "PORT", default_value_t = 22)]
    port: u16,
}

/// `plasma ssh NODE [-- COMMAND…]`: the exit status of the command or shell.
pub(crate) async fn ssh(
    remote: &Remote,
    node: &str,
    args: &SshArgs,
    command: &[String],
) -> Result<u8, Fault> {
    let target = target(remote, node, args).await?;
    let link = session::open(&target)?;
    match command {
        [] => shell::shell(&link, &target),
        words => shell::run(&link, &target, &words.join(" ")),
    }
}

/// `plasma node reboot NODE`: returns when the node has booted again.
pub(crate) async fn reboot(
    remote: &Remote,
    node: &str,
    args: &SshArgs,
    wait: Duration,
) -> Result<(), Fault> {
    let before = {
        let target = target(remote, node, args).await?;
        let link = session::open(&target)?;
        let before = boot_id(&link, &target)?;
        order(&link, &target)?;
        before
    };
    eprintln!("{node}: reboots");
    let began = Instant::now();
    let mut seen = "its boot is still the one before".to_owned();
    while began.elapsed() < wait {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match boot_now(remote, node, args).await {
            Ok(now) if now != before => {
                eprintln!("{node}: is back after {:.0} s", began.elapsed().as_secs_f64());
                return Ok(());
            }
            Ok(_) => seen = "its boot is still the one before".to_owned(),
            Err(fault) => seen = format!("{} {}", fault.code, fault.what),
        }
    }
    if wait.is_zero() {
        return Ok(());
    }
    Err(Fault::new(
        codes::TOO_LATE,
        Kind::Deadline,
        format!("{node} is not back after {} s: {seen}", wait.as_secs()),
        format!("look at its console, and at what it was told to boot: plasma boot explain {node}"),
    ))
}

/// The node's boot, asked anew: a node that was installed meanwhile has another host key.
async fn boot_now(remote: &Remote, node: &str, args: &SshArgs) -> Result<String, Fault> {
    let target = target(remote, node, args).await?;
    boot_id(&session::open(&target)?, &target)
}

fn boot_id(link: &session::Link, target: &Target) -> Result<String, Fault> {
    let (_, id) = shell::capture(link, target, "cat /proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// A connection that ends before the answer is the reboot itself.
fn order(link: &session::Link, target: &Target) -> Result<(), Fault> {
    let answer = shell::capture(link, target, "{ systemctl reboot || reboot; } 2>&1");
    let Ok((status, words)) = answer else { return Ok(()) };
    if status == 0 {
        return Ok(());
    }
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Fault::new(
        codes::REBOOT_REFUSED,
        Kind::Precondition,
        format!("{} does not reboot (exit status {status}): {words}", target.node),
        "log in as one who may (--user root), or power the machine off and on",
    ))
}

async fn target(remote: &Remote, node: &str, args: &SshArgs) -> Result<Target, Fault> {
    let status = remote.operator()?.status().await?;
    let known = find(&status, node)?;
    let address: IpAddr = known.address.parse().map_err(|_| {
        Fault::new(
            codes::SSH_UNREACHABLE,
            Kind::Internal,
            format!(
                "the boot server says that {node} is at {:?}, which is no address",
                known.address
            ),
            "correct the inventory",
        )
    })?;
    let Some(host_key) = known.host_key.clone() else {
        return Err(Fault::new(
            codes::NO_HOST_KEY,
            Kind::Precondition,
            format!("{node} has not enrolled with a host key, so nobody could tell who answers"),
            format!(
                "wait until it has joined: plasma status --wait 600; where it is: plasma boot explain {node}"
            ),
        ));
    };
    Ok(Target {
        node: node.to_owned(),
        address: SocketAddr::new(address, args.port),
        user: args.user.clone(),
        host_key,
        is_rescue: known.decision == "rescue",
        identity: args.identity.clone().or_else(|| remote.ssh_key.clone()),
    })
}

/// What the boot server knows of a node, or a fault that names the nodes there are.
pub(crate) fn find<'a>(
    status: &'a wire::Status,
    node: &str,
) -> Result<&'a wire::NodeStatus, Fault> {
    status.nodes.get(node).ok_or_else(|| {
        let known: Vec<&str> = status.nodes.keys().map(String::as_str).collect();
        Fault::new(
            inventory::codes::UNKNOWN_NODE,
            Kind::NotFound,
            format!("the boot server has no node {node:?}"),
            format!("use one of {}", known.join(", ")),
        )
    })
}
