//! What may be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::node::{BootCommand, NodeCommand};
use crate::print::Output;
use crate::remote::ServerArgs;
use crate::serve::ServeArgs;
use crate::ssh::SshArgs;
use crate::token::TokenCommand;
use crate::up::UpArgs;

const EXAMPLES: &str = "Examples, machines that boot from the network (docs/operator.md):
  plasma check nodes/cluster.nix
  plasma serve nodes/cluster.nix --dhcp full --interface eno1
  plasma status --wait 900
  plasma plan
  plasma ssh node01 -- journalctl -u chainfire -n 20
  plasma node wipe node02

Examples, a cloud on this machine:
  plasma up                        three nodes on this machine, until Ctrl-C
  plasma up --nodes 1 --detach     the small embedded one, in the background
  plasma status -o json
  plasma logs -f node01
  plasma down
  plasma destroy --yes

  plasma token new node02 --ttl 600
  plasma completions bash > /etc/bash_completion.d/plasma";

/// Runs and operates a PlasmaCloud.
#[derive(Parser)]
#[command(name = "plasma", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The folder of the cloud or boot server on this machine, or a lab's
    /// [default: $PLASMA_HOME or ~/.local/share/plasma]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// How to print results.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check the description of a cluster, and say all that is wrong with it.
    #[command(
        after_help = "Without FILE: what the boot server of the folder serves, else nodes/cluster.nix or\nnodes/cluster.json from here, else the built-in inventory.\n\nExamples:\n  plasma check\n  plasma check nodes/cluster.nix\n  plasma check nodes/cluster.json -o json"
    )]
    Check {
        /// JSON, or Nix that is plain data.
        file: Option<PathBuf>,
    },
    /// What will happen to which machine and which disk; fails when something would stop.
    #[command(after_help = "Examples:\n  plasma plan\n  plasma plan nodes/cluster.nix -o json")]
    Plan {
        #[command(flatten)]
        server: ServerArgs,
        /// The inventory to judge by; without it as for `plasma check`.
        file: Option<PathBuf>,
    },
    /// Run the boot server of an inventory on this machine, until Ctrl-C.
    #[command(
        after_help = "Examples:\n  plasma serve nodes/cluster.nix --dhcp full --interface eno1\n  plasma serve nodes/cluster.nix --dhcp proxy --interface eno1 --images /srv/images\n  plasma serve nodes/cluster.nix --no-hand-out     (then: plasma token new node01)"
    )]
    Serve(ServeArgs),
    /// How the cloud is: named gates, with reasons for what is not ready; fails when it is not.
    #[command(
        after_help = "Examples:\n  plasma status\n  plasma status --wait 900 -o json\n  plasma status --bootserver https://10.20.0.1:8443 --operator ./operator"
    )]
    Status {
        #[command(flatten)]
        server: ServerArgs,
        /// Wait so many seconds until it is ready; progress is shown meanwhile.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Nodes: list, wipe, replace, rescue, reboot.
    #[command(
        after_help = "Examples:\n  plasma node list\n  plasma node wipe node02\n  plasma node replace node03 --yes\n  plasma node reboot node01"
    )]
    Node {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Machines that asked the boot server what to boot.
    #[command(after_help = "Examples:\n  plasma machines\n  plasma machines -o json")]
    Machines {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// What machines are told to boot.
    #[command(after_help = "Examples:\n  plasma boot explain node01")]
    Boot {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        command: BootCommand,
    },
    /// Join tokens.
    #[command(after_help = "Examples:\n  plasma token new node02\n  plasma token list -o yaml")]
    Token {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// A shell, or a command, on a node; its exit status is passed on.
    #[command(
        after_help = "The node's host key must be the one that it enrolled with. The words of the command are\njoined with blanks and read by the node's shell, as with ssh.\n\nExamples:\n  plasma ssh node01\n  plasma ssh node01 -- systemctl status chainfire\n  plasma ssh node01 -i ~/.ssh/work -- 'journalctl -f | grep -v debug'"
    )]
    Ssh {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name in the inventory.
        node: String,
        #[command(flatten)]
        ssh: SshArgs,
        /// Without it, a shell.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// A picture of the cluster, from the inventory.
    #[command(
        after_help = "Examples:\n  plasma topology\n  plasma topology nodes/cluster.nix -o svg > cluster.svg"
    )]
    Topology {
        /// The inventory; without it as for `plasma check`.
        file: Option<PathBuf>,
    },
    /// Run a cloud on this machine; again goes on with the same data.
    #[command(
        after_help = "Examples:\n  plasma up --nodes 3\n  plasma up --detach --dir /tmp/cloud"
    )]
    Up(UpArgs),
    /// Stop the cloud on this machine, and wait until it is gone; its data stays.
    #[command(after_help = "Examples:\n  plasma down")]
    Down,
    /// Show logs of what runs on this machine.
    #[command(
        after_help = "Examples:\n  plasma logs\n  plasma logs -f node01\n  plasma logs -n 500 bootserver"
    )]
    Logs {
        /// A node, `bootserver` or `supervisor`; without it all.
        name: Option<String>,
        /// Go on as they grow.
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Remove the cloud on this machine with all its data.
    #[command(after_help = "Examples:\n  plasma destroy --yes")]
    Destroy {
        /// It is meant.
        #[arg(long)]
        yes: bool,
    },
    /// The description of a cluster: `check` is the same as `plasma check`.
    #[command(hide = true)]
    Inventory {
        #[command(subcommand)]
        command: InventoryCommand,
    },
    /// Print completions for a shell.
    #[command(
        after_help = "Examples:\n  plasma completions bash > /etc/bash_completion.d/plasma\n  plasma completions fish > ~/.config/fish/completions/plasma.fish"
    )]
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
pub(crate) enum InventoryCommand {
    /// Check an inventory, and say all that is wrong with it.
    Check {
        /// As for `plasma check`.
        file: Option<PathBuf>,
    },
}

impl Command {
    /// Whether it calls a boot server or a node, and so must run where they can be reached.
    pub(crate) fn speaks_with_machines(&self) -> bool {
        matches!(
            self,
            Command::Plan { .. }
                | Command::Status { .. }
                | Command::Node { .. }
                | Command::Machines { .. }
                | Command::Boot { .. }
                | Command::Token { .. }
                | Command::Ssh { .. }
        )
    }
}
