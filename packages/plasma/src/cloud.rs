//! Starts a cloud on this machine and keeps it running: a boot server, and one `firstboot` for
//! each node, which is the very program that a booted machine runs. Nothing is wired by hand
//! behind its back: a node gets its settings, the CA's certificate and a join token, no more.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootserver::client::Operator;
use fault::{Fault, Kind};
use identity::{describe_cert, write_file};
use inventory::Inventory;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::child::{Notice, Task, end_orphans, keep};
use crate::home::{Home, bad_inventory, folder};
use crate::programs::Programs;
use crate::{codes, ports};

const BOOTSERVER_PATIENCE: Duration = Duration::from_secs(30);
/// Time for processes of a supervisor that was killed to notice it and stop.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(20);
/// A token that ends sooner is replaced.
const TOKEN_MARGIN: Duration = Duration::from_secs(120);
const DEFAULT_NODES: usize = 3;

/// A cloud that this process supervises.
pub(crate) struct Cloud {
    home: Home,
    inventory: Inventory,
    programs: Programs,
    notices: mpsc::Sender<Notice>,
    stop_nodes: CancellationToken,
    stop_bootserver: CancellationToken,
    nodes: Vec<JoinHandle<()>>,
    bootserver: Option<JoinHandle<()>>,
    _lock: File,
}

/// What the cloud should be.
pub(crate) struct Plan {
    /// How many nodes; without it as many as last time, or three.
    pub(crate) nodes: Option<usize>,
    /// The inventory to take nodes from; without it the one of last time, or the built-in one.
    pub(crate) inventory: Option<std::path::PathBuf>,
}

impl Cloud {
    /// Checks all that can be checked beforehand, then prepares the folder. Starts nothing.
    pub(crate) async fn prepare(
        home: Home,
        plan: &Plan,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Cloud, Vec<Fault>> {
        let programs = Programs::find().map_err(one)?;
        home.create().map_err(one)?;
        let lock = home.lock().map_err(one)?;
        home.note_supervisor(false).map_err(one)?;
        let left = end_orphans(home.processes(), ORPHAN_PATIENCE).await;
        if let Some(process) = left.first() {
            let what =
                format!("{} (pid {}) of an earlier run does not end", process.name(), process.pid);
            return Err(vec![Fault::new(
                codes::NOT_STOPPED,
                Kind::Internal,
                what,
                "end it by hand",
            )]);
        }
        let inventory = inventory_of(&home, plan).map_err(one)?;
        let taken = ports::check(&ports::needed(&inventory));
        if !taken.is_empty() {
            return Err(taken);
        }
        let write = |path: &Path, text: &str| write_file(path, text.as_bytes(), 0o600);
        write(&home.inventory_path(), &inventory.to_json()).map_err(|e| one(e.into()))?;
        write(&home.bootserver_toml(), &bootserver_toml(&home)).map_err(|e| one(e.into()))?;
        home.note_supervisor(true).map_err(one)?;
        Ok(Cloud {
            home,
            inventory,
            programs,
            notices,
            stop_nodes: CancellationToken::new(),
            stop_bootserver: CancellationToken::new(),
            nodes: Vec::new(),
            bootserver: None,
            _lock: lock,
        })
    }

    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Starts the boot server, waits until it answers, and starts the nodes.
    pub(crate) async fn start(&mut self) -> Result<(), Fault> {
        self.init().await?;
        let task = Task {
            name: "bootserver".to_owned(),
            program: self.programs.bootserver.clone(),
            config: self.home.bootserver_toml(),
            log: self.home.log("bootserver"),
        };
        let before = || std::future::ready(Ok(()));
        let stop = self.stop_bootserver.clone();
        self.bootserver = Some(tokio::spawn(keep(task, before, self.notices.clone(), stop)));
        let operator = Arc::new(Operator::new(&base(), &self.home.operator())?);
        let deadline = Instant::now() + BOOTSERVER_PATIENCE;
        while let Err(fault) = operator.status().await {
            if Instant::now() > deadline {
                return Err(Fault::new(
                    codes::NOT_STARTED,
                    Kind::Unavailable,
                    format!("the boot server does not answer: {fault}"),
                    format!("see {}", self.home.log("bootserver").display()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in self.inventory.nodes.keys() {
            let node = Node {
                name: name.clone(),
                home: self.home.clone(),
                chainfire: self.programs.chainfire.clone(),
                operator: Arc::clone(&operator),
            };
            let task = Task {
                name: name.clone(),
                program: self.programs.firstboot.clone(),
                config: node.settings_path(),
                log: self.home.log(name),
            };
            let node = Arc::new(node);
            let before = move || {
                let node = Arc::clone(&node);
                async move { node.prepare().await }
            };
            let stop = self.stop_nodes.clone();
            self.nodes.push(tokio::spawn(keep(task, before, self.notices.clone(), stop)));
        }
        Ok(())
    }

    /// Stops the nodes, all at once, and then the boot server.
    pub(crate) async fn stop(mut self) {
        self.stop_nodes.cancel();
        for node in std::mem::take(&mut self.nodes) {
            let _ = node.await;
        }
        self.stop_bootserver.cancel();
        if let Some(bootserver) = self.bootserver.take() {
            let _ = bootserver.await;
        }
        // what a killed child left behind stops by its own lifeline
        end_orphans(self.home.processes(), ORPHAN_PATIENCE).await;
        let _ = std::fs::remove_file(self.home.dir().join("supervisor.json"));
    }

    async fn init(&self) -> Result<(), Fault> {
        let output = Command::new(&self.programs.bootserver)
            .arg("init")
            .arg("--dir")
            .arg(self.home.bootserver_dir())
            .arg("--inventory")
            .arg(self.home.inventory_path())
            .output()
            .await
            .map_err(|e| folder("start", &self.programs.bootserver, &e))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Fault::new(
            codes::NOT_STARTED,
            Kind::Internal,
            format!("the boot server's folder cannot be made: {words}"),
            format!("see {}", self.home.bootserver_dir().display()),
        ))
    }
}

/// The boot server's address on this machine.
pub(crate) fn base() -> String {
    format!("https://{}", ports::ENROL)
}

struct Node {
    name: String,
    home: Home,
    chainfire: std::path::PathBuf,
    operator: Arc<Operator>,
}

impl Node {
    fn settings_path(&self) -> std::path::PathBuf {
        self.home.node_dir(&self.name).join("firstboot.toml")
    }

    /// Writes the settings, and a token for a node without a valid certificate: one that is new,
    /// or whose folder was deleted.
    async fn prepare(&self) -> Result<(), Fault> {
        let dir = self.home.node_dir(&self.name);
        std::fs::create_dir_all(&dir).map_err(|e| folder("create", &dir, &e))?;
        write_file(&self.settings_path(), self.settings().as_bytes(), 0o600)?;
        if !self.has_certificate() && !self.has_fresh_token().await? {
            let minted = self.operator.mint(&self.name, None).await?;
            write_file(&dir.join("join-token"), minted.token.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Whether the token of an earlier start can still be spent: a node that fails for days must
    /// not fill the boot server's book.
    async fn has_fresh_token(&self) -> Result<bool, Fault> {
        let path = self.home.node_dir(&self.name).join("join-token");
        let Ok(token) = std::fs::read_to_string(path) else { return Ok(false) };
        let id = token.split('.').next().unwrap_or_default();
        let soon = (time::OffsetDateTime::now_utc() + TOKEN_MARGIN).unix_timestamp();
        let fresh = |t: &bootserver::wire::TokenInfo| {
            t.id == id && t.state == "fresh" && i64::try_from(t.expires).is_ok_and(|e| e > soon)
        };
        Ok(self.operator.tokens().await?.tokens.iter().any(fresh))
    }

    fn has_certificate(&self) -> bool {
        let path = self.home.node_dir(&self.name).join("state/identity/node.cert.pem");
        let Ok(pem) = std::fs::read_to_string(path) else { return false };
        describe_cert(&pem).is_ok_and(|info| info.not_after > time::OffsetDateTime::now_utc())
    }

    fn settings(&self) -> String {
        let dir = self.home.node_dir(&self.name);
        let text = |path: std::path::PathBuf| quote(&path.to_string_lossy());
        format!(
            "node = {node}\nbootserver = {base}\nca = {ca}\ntoken_file = {token}\n\
             state_dir = {state}\nmode = \"process\"\nchainfire_bin = {chainfire}\n",
            node = quote(&self.name),
            base = quote(&base()),
            ca = text(self.home.operator().ca),
            token = text(dir.join("join-token")),
            state = text(dir.join("state")),
            chainfire = text(self.chainfire.clone()),
        )
    }
}

fn inventory_of(home: &Home, plan: &Plan) -> Result<Inventory, Fault> {
    if home.served_path().exists() {
        return Err(Fault::new(
            codes::OTHER_KIND,
            Kind::Precondition,
            format!("{} is the folder of plasma serve", home.dir().display()),
            "give the cloud on this machine a folder of its own: --dir",
        ));
    }
    let last = home.inventory()?;
    let from = match &plan.inventory {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| folder("read", path, &e))?;
            Inventory::parse(&text).map_err(|faults| bad_inventory(path, &faults))?
        }
        None => match &last {
            Some(last) => last.clone(),
            None => Inventory::parse(Inventory::built_in())
                .map_err(|faults| bad_inventory(Path::new("nodes/cluster.json"), &faults))?,
        },
    };
    let before = last.as_ref().map(|inventory| inventory.nodes.len());
    let count = plan.nodes.or(before).unwrap_or(DEFAULT_NODES);
    if let Some(before) = before
        && count < before
    {
        return Err(Fault::new(
            codes::SHRINK,
            Kind::Precondition,
            format!("this cloud has {before} nodes, and only {count} would be started"),
            format!("start all: --nodes {before}; begin anew: plasma destroy --yes"),
        ));
    }
    from.on_loopback(count)
}

fn bootserver_toml(home: &Home) -> String {
    format!(
        "state_dir = {state}\ninventory = {inventory}\nlisten = \"{listen}\"\n\n[ops]\nlisten = \"{ops}\"\n",
        state = quote(&home.bootserver_dir().to_string_lossy()),
        inventory = quote(&home.inventory_path().to_string_lossy()),
        listen = ports::ENROL,
        ops = ports::OPS,
    )
}

/// A TOML string; JSON's escapes are among TOML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn one(fault: Fault) -> Vec<Fault> {
    vec![fault]
}
