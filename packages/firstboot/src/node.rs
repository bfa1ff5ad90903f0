//! The machine as the steps see it: one probe and one act per step.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use fault::{Fault, Kind};
use inventory::Inventory;
use steps::{Probe, Step};
use tokio_util::sync::CancellationToken;

use crate::bootserver::BootServer;
use crate::disk::DiskStep;
use crate::enroll::{self, Enrolment};
use crate::install::InstallStep;
use crate::join::{Member, UNIT};
use crate::{Context, Mode, Settings, Target, clock, codes, identify, systemd};

/// How often the certificates' age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// The context of a step; a macro, since the step itself is borrowed to change it.
macro_rules! context {
    ($node:ident) => {{
        let known = $node.known.as_ref().ok_or_else(unidentified)?;
        Context {
            node: $node.name.as_deref().ok_or_else(unidentified)?,
            cluster_id: &known.cluster_id,
            inventory: &known.node,
            install_id: &known.install_id,
            target: $node.settings.target,
            machine_id: &known.machine_id,
            images: &known.images,
            state_dir: &$node.settings.state_dir,
        }
    }};
}

/// This machine, and what is known of it so far in this run.
pub struct Node {
    pub(crate) settings: Arc<Settings>,
    name: Option<String>,
    known: Option<Known>,
    disk: DiskStep,
    install: InstallStep,
    member: Member,
}

/// What the boot server said of this machine.
struct Known {
    cluster_id: String,
    node: inventory::Node,
    install_id: String,
    machine_id: String,
    images: String,
}

impl Node {
    /// Nothing is known yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Node {
            member: Member::new(settings.clone()),
            disk: DiskStep::new(settings.clone()),
            install: InstallStep::new(settings.clone()),
            settings,
            name: None,
            known: None,
        }
    }

    /// The node's name, once the step identify is true.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The steps of this kind of node, and those that it leaves out with the reason.
    pub(crate) fn plan(&self) -> (Vec<Step>, Vec<(Step, String)>) {
        let off: &[Step] = match self.settings.mode {
            Mode::Process => &[Step::Disk, Step::Install],
            Mode::Systemd => &[],
        };
        let plan = Step::ALL.into_iter().filter(|step| !off.contains(step)).collect();
        (plan, off.iter().map(|&step| (step, "this node is processes only".to_owned())).collect())
    }

    /// Is the step true?
    pub(crate) async fn probe(&mut self, step: Step) -> Result<Probe, Fault> {
        match step {
            Step::Identify => self.identify().await,
            Step::Clock => clock::probe(&self.server()?, self.settings.mode).await,
            Step::Network => self.network(),
            Step::Disk | Step::Install if self.settings.target == Target::None => installed(),
            Step::Disk => self.disk.probe(&context!(self)).await,
            Step::Install => self.install.probe(&context!(self)).await,
            Step::Identity => enroll::probe_keys(&self.settings),
            Step::Enroll => enroll::probe(&self.settings, self.known()?),
            Step::Join => self.member.probe_joined(&self.enrolment()?).await,
            Step::Services => self.member.probe_ready(&self.enrolment()?).await,
            Step::Gates => self.member.probe_gates(&self.enrolment()?).await,
            // the ledger's own last line is the blessing; the boot server gets its copy
            Step::Bless => Ok(Probe::True),
        }
    }

    /// Make the step true.
    pub(crate) async fn act(&mut self, step: Step) -> Result<(), Fault> {
        match step {
            Step::Clock => clock::act(&self.server()?).await,
            Step::Disk if self.settings.target != Target::None => {
                self.disk.act(&context!(self)).await
            }
            Step::Install if self.settings.target != Target::None => {
                self.install.act(&context!(self)).await
            }
            Step::Identity => enroll::make_keys(&self.settings),
            Step::Enroll => self.enroll().await,
            Step::Join => {
                let (enrolment, server) = (self.enrolment()?, self.server()?);
                self.member.join(&enrolment, &server).await
            }
            // these have nothing to do beside waiting, and their probes say for what
            Step::Identify
            | Step::Network
            | Step::Disk
            | Step::Install
            | Step::Services
            | Step::Gates
            | Step::Bless => Ok(()),
        }
    }

    /// After the blessing: certificates are renewed in time, and in process mode the services are
    /// kept running, until `stop`.
    pub async fn stay(&mut self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEWAL_CHECK) => {}
                () = stop.cancelled() => return,
            }
            if enroll::renewal_due(&self.settings).unwrap_or(false)
                && let Err(fault) = self.enroll().await
            {
                tracing::warn!(%fault, "certificates are not renewed yet, trying again later");
            }
        }
    }

    /// Stops the node's services, in process mode.
    pub async fn stop(&mut self) {
        self.member.stop().await;
    }

    /// With certificates that still hold, for longer ones; otherwise with the join token.
    async fn enroll(&self) -> Result<(), Fault> {
        let node = self.known()?;
        if enroll::usable(&self.settings, node)? {
            enroll::renew(&self.settings, &self.server()?, node).await?;
            tracing::info!("certificates renewed");
            // a unit got copies of its credentials when it started; a child reads the files anew
            return match self.settings.mode {
                Mode::Systemd => systemd::restart_if_running(UNIT).await,
                Mode::Process => Ok(()),
            };
        }
        let server = BootServer::new(&self.settings, None)?;
        let enrolled = enroll::act(&self.settings, &server, node, identify::seen(&self.settings));
        // a token that is refused may be replaced by a better one while this machine waits
        enrolled.await.map_err(|fault| match fault.kind {
            Kind::Denied | Kind::Unauthenticated => Fault { kind: Kind::Unavailable, ..fault },
            _ => fault,
        })
    }

    async fn identify(&mut self) -> Result<Probe, Fault> {
        let name = match (&self.settings.node, Enrolment::read(&self.settings)?) {
            (Some(name), _) => name.clone(),
            (None, Some(enrolment)) => enrolment.node,
            (None, None) => {
                let inventory = self.server()?.inventory().await?;
                identify::find(&inventory, &identify::seen(&self.settings))?
            }
        };
        self.name = Some(name);
        Ok(Probe::True)
    }

    /// The node holds the address that the inventory gives it: binding to it works.
    ///
    /// Before enrolment the inventory is not here yet; then the boot server was reached, and that
    /// is network enough.
    fn network(&self) -> Result<Probe, Fault> {
        let Some(enrolment) = Enrolment::read(&self.settings)? else { return Ok(Probe::True) };
        let inventory: Inventory = enrolment.inventory()?;
        let address = inventory.node(self.known()?)?.address;
        match UdpSocket::bind(SocketAddr::new(address, 0)) {
            Ok(_) => Ok(Probe::True),
            Err(error) => Ok(Probe::Waiting(format!(
                "{} this machine does not hold {address} ({error})",
                codes::ADDRESS
            ))),
        }
    }

    fn known(&self) -> Result<&str, Fault> {
        self.name.as_deref().ok_or_else(unidentified)
    }

    fn enrolment(&self) -> Result<Enrolment, Fault> {
        Enrolment::read(&self.settings)?.ok_or_else(|| {
            let what = "the node is not enrolled";
            Fault::new(codes::STATE, Kind::Unavailable, what, "start firstboot again")
        })
    }

    /// With the node's certificate where there is one.
    fn server(&self) -> Result<BootServer, Fault> {
        let own = enroll::tls_files(&self.settings, "node");
        let usable = own.cert.exists() && rpc::Tls::load(&own).is_ok();
        BootServer::new(&self.settings, usable.then_some(&own))
    }
}

fn unidentified() -> Fault {
    let what = "the boot server has not said which node this machine is";
    Fault::new(codes::UNKNOWN, Kind::Unavailable, what, "check that the boot server runs")
}

/// Installed means that the root is on a disk and not in memory, as it is after a netboot.
fn installed() -> Result<Probe, Fault> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut root = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (place == "/").then_some(kind)
    });
    match root.next_back() {
        Some("tmpfs" | "squashfs" | "overlay" | "rootfs") => Err(Fault::new(
            codes::NOT_INSTALLED,
            Kind::Precondition,
            "this machine runs from memory and has no system on its disk",
            "install it with disko and nixos-install; firstboot does not write disks in this version",
        )),
        _ => Ok(Probe::True),
    }
}
