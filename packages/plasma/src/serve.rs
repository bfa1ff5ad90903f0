//! `plasma serve`: the boot server of an inventory, on this machine, in the foreground.
//!
//! The boot server is a process of its own and is kept running; this one shows what it knows. State
//! lies in the folder, so that the next start goes on with the same cluster.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use fault::{Fault, Kind};
use identity::write_file;
use inventory::Inventory;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::child::{Notice, Task, end_orphans, keep};
use crate::home::{Home, folder};
use crate::overview::Observer;
use crate::programs::program;
use crate::remote::{Remote, Served, ServerArgs};
use crate::screen::Screen;
use crate::{codes, node, ports, print, source};

const ENROL_PORT: u16 = 8443;
const BOOT_PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);
const ORPHAN_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the boot server does about DHCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dhcp {
    /// Nothing: another server names this one, or machines are booted in another way.
    #[default]
    Off,
    /// The network's only DHCP server.
    Full,
    /// Boot information beside another DHCP server.
    Proxy,
}

/// `plasma serve [FILE]`
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The inventory; without it as for `plasma check`.
    file: Option<PathBuf>,
    /// What to do about DHCP on the nodes' network.
    #[arg(long, value_enum, default_value_t)]
    dhcp: Dhcp,
    /// The card on the nodes' network, for DHCP.
    #[arg(long, value_name = "NAME", required_if_eq_any([("dhcp", "full"), ("dhcp", "proxy")]))]
    interface: Option<String>,
    /// Addresses for machines that are no node, in full mode; without it they get none.
    #[arg(long, value_name = "FIRST,LAST", value_delimiter = ',', num_args = 1)]
    range: Option<Vec<Ipv4Addr>>,
    /// The folder with the images that machines boot [default: images/ of the folder].
    #[arg(long, value_name = "DIR", env = "PLASMA_IMAGES")]
    images: Option<PathBuf>,
    /// Serve enrolment only: no machine is booted from the network.
    #[arg(long, conflicts_with_all = ["dhcp", "images"])]
    no_boot: bool,
    /// Hand no join tokens to declared machines; an operator makes each: plasma token new.
    #[arg(long)]
    no_hand_out: bool,
    /// More kernel arguments for what is installed; may be repeated.
    #[arg(long, value_name = "ARGUMENT")]
    kernel_arg: Vec<String>,
}

pub(crate) async fn serve(home: Home, args: ServeArgs) -> anyhow::Result<()> {
    let path = source::locate(args.file.as_deref(), &home);
    let inventory = source::inventory_or_built_in(&home, path.as_deref())?;
    let server = Server::prepare(home, args, inventory).await?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        telemetry::stop_signal().await;
        asked.cancel();
    });
    server.run(stop).await
}

struct Server {
    home: Home,
    args: ServeArgs,
    inventory: Inventory,
    program: PathBuf,
    images: PathBuf,
    _lock: File,
}

impl Server {
    /// Checks all that can be checked beforehand, then writes settings. Starts nothing.
    async fn prepare(home: Home, args: ServeArgs, inventory: Inventory) -> anyhow::Result<Server> {
        let program = program("bootserver")?;
        let address = inventory.cluster.bootserver.address;
        is_here(address, args.interface.as_deref())?;
        let images = match &args.images {
            Some(images) => std::path::absolute(images)?,
            None => home.images_dir(),
        };
        if !args.no_boot && !images.join("manifest.json").is_file() {
            bail!(no_images(&images));
        }
        if let Some(range) = &args.range
            && range.len() != 2
        {
            bail!(Fault::new(
                codes::UNCONFIRMED,
                Kind::Invalid,
                "--range has two addresses: the first and the last",
                "--range 10.20.0.100,10.20.0.199",
            ));
        }
        home.create()?;
        let lock = home.lock()?;
        if home.inventory_path().exists() && !home.served_path().exists() {
            bail!(Fault::new(
                codes::OTHER_KIND,
                Kind::Precondition,
                format!("{} holds a cloud of plasma up", home.dir().display()),
                "give the boot server a folder of its own: --dir /var/lib/plasma-serve",
            ));
        }
        home.note_supervisor(false)?;
        end_orphans(home.processes(), ORPHAN_PATIENCE).await;
        let taken = ports::check(&[enrol(address), ports::OPS]);
        if let Some(taken) = taken.into_iter().next() {
            bail!(taken);
        }
        let server = Server { home, args, inventory, program, images, _lock: lock };
        server.write()?;
        Ok(server)
    }

    fn write(&self) -> Result<(), Fault> {
        let served = Served { bootserver: self.base() };
        let served = serde_json::to_vec(&served).unwrap_or_default();
        // it says whose the folder is, so it is there before the inventory
        write_file(&self.home.served_path(), &served, 0o600)?;
        let inventory = self.inventory.to_json();
        write_file(&self.home.inventory_path(), inventory.as_bytes(), 0o600)?;
        write_file(&self.home.bootserver_toml(), self.settings().as_bytes(), 0o600)?;
        self.home.note_supervisor(true)
    }

    fn base(&self) -> String {
        format!("https://{}", enrol(self.inventory.cluster.bootserver.address))
    }

    fn settings(&self) -> String {
        let args = &self.args;
        let address = self.inventory.cluster.bootserver.address;
        let path = |path: PathBuf| quote(&path.to_string_lossy());
        let mut text = format!(
            "state_dir = {}\ninventory = {}\nlisten = {}\n\n[ops]\nlisten = {}\n\n[boot]\n",
            path(self.home.bootserver_dir()),
            path(self.home.inventory_path()),
            quote(&enrol(address).to_string()),
            quote(&ports::OPS.to_string()),
        );
        if !args.no_boot {
            let listen = SocketAddr::new(address, BOOT_PORT).to_string();
            text.push_str(&format!("listen = {}\n", quote(&listen)));
            text.push_str(&format!("images = {}\n", path(self.images.clone())));
        }
        let arguments: Vec<String> = args.kernel_arg.iter().map(|a| quote(a)).collect();
        text.push_str(&format!("extra_args = [{}]\n", arguments.join(", ")));
        let hand_out = if args.no_hand_out { "never" } else { "declared" };
        text.push_str(&format!("\n[enrollment]\nhand_out = \"{hand_out}\"\n"));
        let mode = match args.dhcp {
            Dhcp::Off => return text,
            Dhcp::Full => "full",
            Dhcp::Proxy => "proxy",
        };
        let interface = quote(args.interface.as_deref().unwrap_or_default());
        text.push_str(&format!("\n[dhcp]\nmode = \"{mode}\"\ninterface = {interface}\n"));
        if let Some([first, last]) = args.range.as_deref() {
            text.push_str(&format!("range = [\"{first}\", \"{last}\"]\n"));
        }
        text
    }

    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.init().await?;
        let (tell, mut told) = mpsc::channel(64);
        let mut screen = Screen::new();
        let stop_child = CancellationToken::new();
        let child = tokio::spawn(self.child(tell, stop_child.clone()));
        let began = tokio::select! {
            began = self.wait_for_answer() => began,
            () = stop.cancelled() => Ok(()),
        };
        if began.is_ok() && !stop.is_cancelled() {
            screen.say(&self.announcement());
            self.watch(&mut screen, &mut told, &stop).await;
        }
        screen.release();
        screen.say("stopping the boot server; nodes that have joined do not need it");
        stop_child.cancel();
        let _ = child.await;
        end_orphans(self.home.processes(), ORPHAN_PATIENCE).await;
        let _ = std::fs::remove_file(self.home.dir().join("supervisor.json"));
        screen.release();
        screen.say("stopped; plasma serve goes on with the same cluster");
        Ok(began?)
    }

    fn child(
        &self,
        tell: mpsc::Sender<Notice>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let task = Task {
            name: "bootserver".to_owned(),
            program: self.program.clone(),
            config: self.home.bootserver_toml(),
            log: self.home.log("bootserver"),
        };
        keep(task, || std::future::ready(Ok(())), tell, stop)
    }

    async fn init(&self) -> Result<(), Fault> {
        let dir = self.home.bootserver_dir();
        let mut command = Command::new(&self.program);
        command.arg("init").arg("--dir").arg(&dir);
        command.arg("--inventory").arg(self.home.inventory_path());
        let made = command.output().await.map_err(|e| folder("start", &self.program, &e))?;
        self.said("the boot server's folder cannot be made", &made)?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.home.bootserver_toml()).arg("--check-config");
        let good = command.output().await.map_err(|e| folder("start", &self.program, &e))?;
        self.said("the boot server refuses its settings", &good)
    }

    fn said(&self, what: &str, output: &std::process::Output) -> Result<(), Fault> {
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let settings = self.home.bootserver_toml();
        Err(Fault::new(
            codes::NOT_STARTED,
            Kind::Internal,
            format!("{what}: {words}"),
            format!("its settings are in {}", settings.display()),
        ))
    }

    fn remote(&self) -> Result<Remote, Fault> {
        Remote::find(&self.home, &ServerArgs::default())
    }

    async fn wait_for_answer(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        let operator = self.remote()?.operator()?;
        loop {
            let Err(fault) = operator.status().await else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(Fault::new(
                    codes::NOT_STARTED,
                    Kind::Unavailable,
                    format!("the boot server does not answer: {fault}"),
                    format!("see {}", self.home.log("bootserver").display()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What runs, where, and what it gives to whom.
    fn announcement(&self) -> String {
        let (args, address) = (&self.args, self.inventory.cluster.bootserver.address);
        let interface = args.interface.as_deref().unwrap_or_default();
        let mut lines = vec![format!("serving cluster {}", self.inventory.cluster.name)];
        lines.push(format!("  folder     {}", self.home.dir().display()));
        lines.push(format!("  enrolment  {}", self.base()));
        if args.no_boot {
            lines.push("  netboot    off".to_owned());
        } else {
            let boot = SocketAddr::new(address, BOOT_PORT);
            lines.push(format!("  netboot    http://{boot}/boot/autoexec.ipxe"));
            lines.push(format!("  images     {}", self.images.display()));
        }
        lines.push(match args.dhcp {
            Dhcp::Off => "  DHCP       off: your own server must name the boot script".to_owned(),
            Dhcp::Proxy => format!("  DHCP       beside another server, on {interface}"),
            Dhcp::Full => {
                let strangers = match args.range.as_deref() {
                    Some([first, last]) => format!("strangers get {first} to {last}"),
                    _ => "strangers get no address".to_owned(),
                };
                format!("  DHCP       full, on {interface}; {strangers}")
            }
        });
        lines.push(match args.no_hand_out {
            true => "  tokens     by hand: plasma token new NODE".to_owned(),
            false => "  tokens     handed to the machine of each declared node, once per install; \
                      whoever is on this network and shows its serial or MAC can claim it first"
                .to_owned(),
        });
        for warning in self.inventory.warnings() {
            lines.push(format!("warning: {warning}"));
        }
        lines.join("\n")
    }

    async fn watch(
        &self,
        screen: &mut Screen,
        told: &mut mpsc::Receiver<Notice>,
        stop: &CancellationToken,
    ) {
        let Ok(remote) = self.remote() else { return };
        let Ok(operator) = remote.operator() else { return };
        let inventory = Some(self.inventory.clone());
        let mut observer = Observer::at(remote.base.clone(), remote.files.clone(), inventory);
        let mut was_ready = false;
        loop {
            let view = tokio::select! {
                view = observer.look() => view,
                () = stop.cancelled() => return,
            };
            if let Ok(machines) = operator.machines().await {
                let now = time::OffsetDateTime::now_utc().unix_timestamp().unsigned_abs() * 1000;
                screen.below(&node::machines_table(&machines.machines, now));
            }
            screen.show(&view);
            if view.ready && !was_ready {
                screen.say(&format!("cluster {} is ready", view.cluster));
                print::result(&print::next_steps(&view));
            }
            was_ready = view.ready;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(notice) = told.recv() => {
                    screen.say(&format!("{}: {}", notice.name, notice.text));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

fn enrol(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, ENROL_PORT)
}

/// Nodes call the address of the inventory, so it must be one of this machine's.
fn is_here(address: IpAddr, interface: Option<&str>) -> Result<(), Fault> {
    let Err(error) = UdpSocket::bind((address, 0)) else { return Ok(()) };
    let interface = interface.unwrap_or("<card>");
    Err(Fault::new(
        codes::NOT_HERE,
        Kind::Precondition,
        format!("cluster.bootserver.address is {address}, which is not this machine's: {error}"),
        format!("give it to the card: ip address add {address}/24 dev {interface}; or correct it"),
    ))
}

fn no_images(images: &Path) -> Fault {
    Fault::new(
        codes::NO_IMAGES,
        Kind::NotFound,
        format!("{} has no manifest.json, so no machine could boot", images.display()),
        "make images: netboot/lab/build, and name their folder: --images DIR; or only enrol: \
         --no-boot",
    )
}

/// A TOML string; JSON's escapes are among TOML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn server(arguments: &[&str]) -> (tempfile::TempDir, Server) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path().join("home"))).unwrap();
        home.create().unwrap();
        let line = Line::parse_from(std::iter::once(&"serve").chain(arguments));
        let server = Server {
            _lock: home.lock().unwrap(),
            home,
            args: line.args,
            inventory: Inventory::parse(Inventory::built_in()).unwrap(),
            program: "bootserver".into(),
            images: "/srv/images".into(),
        };
        (dir, server)
    }

    #[test]
    fn its_settings_are_the_boot_servers() {
        let table: [&[&str]; 3] = [
            &["--dhcp", "full", "--interface", "br0", "--range", "10.20.0.100,10.20.0.199"],
            &["--no-boot", "--no-hand-out"],
            &["--dhcp", "proxy", "--interface", "br0", "--kernel-arg", "a=\"b\""],
        ];
        for arguments in table {
            let (_dir, server) = server(arguments);
            let text = server.settings();
            let settings: bootserver::Settings =
                settings::parse("bootserver.toml".as_ref(), &text).unwrap();
            settings.check().unwrap();
            assert_eq!(settings.listen.to_string(), "10.20.0.1:8443");
        }
    }

    #[test]
    fn it_says_what_it_gives_to_whom() {
        let (_dir, server) = server(&["--dhcp", "full", "--interface", "br0"]);
        let text = server.announcement();
        for part in ["DHCP       full, on br0; strangers get no address", "handed to the machine"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn dhcp_needs_a_card() {
        assert!(Line::try_parse_from(["serve", "--dhcp", "full"]).is_err());
    }

    #[test]
    fn an_address_of_elsewhere_is_refused() {
        // of the network for documentation
        let fault = is_here([192, 0, 2, 1].into(), Some("br0")).unwrap_err();
        assert_eq!(fault.code, codes::NOT_HERE);
        assert!(fault.hint.contains("dev br0"), "{fault}");
        is_here([127, 0, 0, 1].into(), None).unwrap();
    }
}
