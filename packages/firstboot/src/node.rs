//! The machine as the steps see it: one probe and one act per step.

use std::sync::Arc;
use std::time::Duration;

use bootserver::wire::Order;
use fault::{Fault, Kind};
use rpc::ServerTime;
use steps::{Ledger, Probe, Step};
use tokio_util::sync::CancellationToken;

use crate::bootserver::{BootServer, patient};
use crate::disk::DiskStep;
use crate::enroll::{self, Enrolling, Enrolment};
use crate::identify::{self, Known};
use crate::install::InstallStep;
use crate::join::{Member, UNIT};
use crate::network::{self, Network};
use crate::{
    Context, MachineSettings, Mode, Settings, Target, clock, codes, files, kernel, ssh, systemd,
};

/// How often the certificates' age is looked at, and the boot server asked for the inventory.
const LOOK: Duration = Duration::from_secs(3600);
/// What a machine does whose operator only wants to get in.
pub(crate) const RESCUE: [Step; 2] = [Step::Identify, Step::Network];

/// This machine, and what is known of it so far in this run.
pub struct Node {
    pub(crate) settings: Arc<Settings>,
    name: Option<String>,
    known: Option<Known>,
    time: Option<ServerTime>,
    /// From then on certificates are checked by this machine's clock.
    clock_is_right: bool,
    disk: DiskStep,
    install: InstallStep,
    member: Member,
    /// Whether the state folder is the one on the disk, and its ledger is gone on with.
    settled: bool,
    /// Whether systemd was told to start sshd, in this run.
    ssh_started: bool,
}

/// The context of a step; a macro, since the step itself is borrowed to change it.
macro_rules! context {
    ($node:ident) => {{
        let known = $node.known.as_ref().ok_or_else(unidentified)?;
        Context {
            node: &known.node,
            cluster_id: &known.cluster_id,
            inventory: known.inventory.node(&known.node)?,
            install_id: &known.install_id,
            target: $node.settings.target,
            machine_id: &known.machine_id,
            images: &known.images,
        }
    }};
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
            time: None,
            clock_is_right: false,
            settled: false,
            ssh_started: false,
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

    /// Whether the operator only wants to get in. The kernel's arguments say so; a boot server that
    /// says it without them is obeyed too, since a rescue touches nothing.
    pub(crate) fn is_rescue(&self) -> bool {
        let machine = self.settings.mode == Mode::Systemd;
        machine
            && (kernel::is_rescue(&self.settings.machine)
                || self.known.as_ref().is_some_and(|known| known.order == Order::Rescue))
    }

    /// Is the step true?
    pub(crate) async fn probe(&mut self, step: Step) -> Result<Probe, Fault> {
        match step {
            Step::Identify => self.identify().await,
            Step::Clock => self.probe_clock().await,
            Step::Network => self.probe_network().await,
            Step::Disk | Step::Install if self.settings.target == Target::None => {
                installed(&self.settings.machine)
            }
            Step::Disk => self.disk.probe(&context!(self)).await,
            Step::Install => self.install.probe(&context!(self)).await,
            Step::Identity if self.keeps_ssh() && !self.start_ssh().await => Ok(Probe::False),
            Step::Identity => enroll::probe_keys(&self.settings),
            Step::Enroll => enroll::probe(&self.settings, self.named()?),
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
            Step::Clock => clock::act(self.time().await?, &self.settings.machine).await,
            Step::Network => self.make_network().await,
            Step::Disk if self.settings.target != Target::None => {
                self.disk.act(&context!(self)).await
            }
            Step::Install if self.settings.target != Target::None => {
                self.install.act(&context!(self)).await
            }
            Step::Identity => self.make_identity().await,
            Step::Enroll => self.enroll().await,
            Step::Join => {
                let (enrolment, server) = (self.enrolment()?, self.server()?);
                self.member.join(&enrolment, &server).await
            }
            // these have nothing to do beside waiting, and their probes say for what
            Step::Identify
            | Step::Disk
            | Step::Install
            | Step::Services
            | Step::Gates
            | Step::Bless => Ok(()),
        }
    }

    /// Before anything else: a machine that booted its disk finds its folder there, so that it
    /// starts without the boot server. What stands against it, the step disk says in its turn.
    pub(crate) async fn resume(&mut self) -> Result<(), Fault> {
        if self.settings.target == Target::None || kernel::is_rescue(&self.settings.machine) {
            return Ok(());
        }
        match self.disk.resume().await {
            Ok(Some(resumed)) => {
                tracing::info!(
                    node = resumed.node,
                    cluster = resumed.cluster_id,
                    "the disk is ours"
                );
                self.settled = true;
            }
            Ok(None) => {}
            Err(fault) => tracing::warn!(%fault, "the disk is not used yet"),
        }
        Ok(())
    }

    /// The step disk may have brought an older folder to light, from before this boot: its ledger
    /// is gone on with.
    pub(crate) fn settle(&mut self, mine: &Ledger) -> Result<Option<Ledger>, Fault> {
        if self.settings.target == Target::None || self.settled {
            return Ok(None);
        }
        let there = files::read_ledger(&self.settings.ledger())?;
        if there.as_ref() == Some(mine) {
            return Ok(None);
        }
        self.settled = true;
        Ok(there)
    }

    /// After the blessing: certificates are renewed in time, operators come and go, and in process
    /// mode the services are kept running, until `stop`. A rescue does what of it it can.
    pub async fn stay(&mut self, stop: &CancellationToken) {
        let hourly = async {
            loop {
                self.look_after().await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = hourly => {}
            () = stop.cancelled() => {}
        }
    }

    async fn look_after(&mut self) {
        if enroll::renewal_due(&self.settings).unwrap_or(false)
            && let Err(fault) = self.enroll().await
        {
            tracing::warn!(%fault, "certificates are not renewed yet, trying again later");
        }
        if let Err(fault) = self.look_again().await {
            tracing::warn!(%fault, "the inventory is not known anew, trying again later");
        }
    }

    /// What the boot server says now, to a node that is enrolled.
    async fn look_again(&self) -> Result<(), Fault> {
        let node = self.named()?;
        if !enroll::usable(&self.settings, node)? {
            return Ok(());
        }
        if self.clock_is_right {
            clock::remember(&self.settings, clock::here())?;
        }
        let looked = enroll::look(&self.settings, node).await;
        if self.keeps_ssh() {
            // a renewal brought an inventory too
            ssh::authorize(&self.settings.machine, &self.enrolment()?.inventory()?)?;
        }
        looked
    }

    /// Stops the node's services, in process mode.
    pub async fn stop(&mut self) {
        self.member.stop().await;
    }

    /// With certificates that still hold, for longer ones; otherwise with a join token.
    async fn enroll(&self) -> Result<(), Fault> {
        let node = self.named()?;
        if enroll::usable(&self.settings, node)? {
            let renewed = enroll::renew(&self.settings, &self.server()?, node).await;
            renewed.map_err(patient)?;
            tracing::info!("certificates renewed");
            // a unit got copies of its credentials when it started; a child reads the files anew
            return match self.settings.mode {
                Mode::Systemd => systemd::restart_if_running(&self.settings.machine, UNIT).await,
                Mode::Process => Ok(()),
            };
        }
        let server = BootServer::new(&self.settings, None)?;
        let (settings, known) = (&*self.settings, self.known.as_ref());
        let enrolled = Enrolling { settings, server: &server, node, known }.act().await;
        enrolled.map_err(|fault| match enroll::is_overtaken(&fault) {
            // the next run is told of the new order, and begins with the disk
            true => Fault { kind: Kind::Precondition, ..fault },
            // a token that is refused may be replaced by a better one while this machine waits
            false => patient(fault),
        })
    }

    /// The boot server says who this machine is. One that is enrolled, or was told its name and
    /// needs no more, goes on without it.
    async fn identify(&mut self) -> Result<Probe, Fault> {
        let enrolment = Enrolment::read(&self.settings)?;
        let told = identify::told(&self.settings).map(str::to_owned);
        if self.settings.mode == Mode::Process
            && let Some(name) = told.clone().or(enrolment.as_ref().map(|it| it.node.clone()))
        {
            self.name = Some(name);
            return Ok(Probe::True);
        }
        let known = match (self.ask().await, &enrolment) {
            (Ok(known), Some(enrolment)) if enrolment.node == known.node => {
                enroll::learn(&self.settings, &known.cluster_id, known.sent.clone())?;
                as_enrolled(known, enrolment)
            }
            (Ok(known), _) => known,
            (Err(fault), Some(enrolment)) => {
                tracing::warn!(%fault, "the boot server was not asked: going on as enrolled");
                identify::remembered(&self.settings, enrolment)?
            }
            (Err(fault), None) if told.is_some() => {
                tracing::info!(%fault, "the boot server does not know this machine by its parts");
                self.name = told;
                return Ok(Probe::True);
            }
            (Err(fault), None) => return Err(patient(fault)),
        };
        if known.order == Order::Wait {
            return Ok(Probe::Waiting(known.reason));
        }
        tracing::info!(node = known.node, order = ?known.order, reason = known.reason, "identified");
        if self.keeps_ssh() {
            ssh::authorize(&self.settings.machine, &known.inventory)?;
            self.start_ssh().await;
            network::set_host_name(&self.settings.machine, &known.node);
        }
        self.name = Some(known.node.clone());
        self.known = Some(known);
        Ok(Probe::True)
    }

    async fn ask(&mut self) -> Result<Known, Fault> {
        let time = self.time().await?;
        let server = BootServer::by_its_time(&self.settings, time)?;
        let disks = match self.settings.mode {
            Mode::Systemd => self.disk.seen().await,
            Mode::Process => Vec::new(),
        };
        identify::ask(&self.settings, &server, disks).await
    }

    /// The boot server's time; it is asked once in a run, before this machine's clock is right.
    async fn time(&mut self) -> Result<ServerTime, Fault> {
        if let Some(time) = self.time {
            return Ok(time);
        }
        let time = BootServer::time(&self.settings).await.map_err(patient)?;
        Ok(*self.time.insert(time))
    }

    async fn probe_clock(&mut self) -> Result<Probe, Fault> {
        let seen = match self.time().await {
            Ok(time) => clock::probe(time, self.settings.mode),
            // certificates that hold by this clock say that it is near enough
            Err(fault) if enroll::usable(&self.settings, self.named()?)? => {
                tracing::warn!(%fault, "the clock is not compared, but its own certificates hold");
                Probe::True
            }
            Err(fault) => return Err(fault),
        };
        self.clock_is_right |= seen == Probe::True;
        if seen != Probe::True {
            // asked anew: a boot server whose clock is mended may say another time
            self.time = self.time.filter(|_| seen == Probe::False);
        }
        Ok(seen)
    }

    async fn probe_network(&mut self) -> Result<Probe, Fault> {
        if let Some(network) = self.network()? {
            let held = network.probe().await?;
            let wants_key = self.is_rescue() && self.keeps_ssh() && !self.start_ssh().await;
            return Ok(if held == Probe::True && wants_key { Probe::False } else { held });
        }
        if self.settings.target == Target::NixOs {
            return Ok(Probe::True);
        }
        // before enrolment the inventory is not here yet; then the boot server was reached, and
        // that is network enough
        let Some(enrolment) = Enrolment::read(&self.settings)? else { return Ok(Probe::True) };
        Ok(network::probe_process(enrolment.inventory()?.node(self.named()?)?.address))
    }

    async fn make_network(&self) -> Result<(), Fault> {
        if let Some(network) = self.network()? {
            network.act().await?;
        }
        // one for this boot alone: a rescue touches no disk
        if self.is_rescue() && self.keeps_ssh() {
            return ssh::make_host_key(&self.settings.machine).await;
        }
        Ok(())
    }

    /// This machine's network, where it is one and is not only told its name. The installer of NixOS
    /// has none: its address is a lease, the inventory's is the installed system's, and what reached
    /// the boot server is network enough.
    fn network(&self) -> Result<Option<Network<'_>>, Fault> {
        let Some(known) = &self.known else { return Ok(None) };
        let node = known.inventory.node(&known.node)?;
        let installer = self.settings.target == Target::NixOs;
        if self.settings.mode == Mode::Process || node.process || installer {
            return Ok(None);
        }
        let writes = self.settings.target == Target::Lab;
        let machine = &self.settings.machine;
        Ok(Some(Network { machine, cluster: &known.inventory.cluster, node, writes }))
    }

    async fn make_identity(&self) -> Result<(), Fault> {
        if self.keeps_ssh() {
            ssh::make_host_key(&self.settings.machine).await?;
        }
        enroll::make_keys(&self.settings)
    }

    /// Once in a run: when systemd booted, the key was not there yet. False while there is none.
    async fn start_ssh(&mut self) -> bool {
        let has_key = ssh::has_host_key(&self.settings.machine);
        if has_key && !self.ssh_started {
            self.ssh_started = ssh::start(&self.settings.machine).await;
        }
        has_key
    }

    /// Whether SSH is the agent's to set up; on NixOS the system does it.
    fn keeps_ssh(&self) -> bool {
        self.settings.target == Target::Lab
    }

    fn named(&self) -> Result<&str, Fault> {
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
        if let (false, Some(time)) = (self.clock_is_right, self.time) {
            return BootServer::by_its_time(&self.settings, time);
        }
        let own = enroll::tls_files(&self.settings, "node");
        let usable = own.cert.exists() && rpc::Tls::load(&own).is_ok();
        BootServer::new(&self.settings, usable.then_some(&own))
    }
}

/// A machine with certificates is who they say, whoever else says so too. An order to install it
/// anew is carried out by the installer, never by the system that would be erased.
fn as_enrolled(mut known: Known, enrolment: &Enrolment) -> Known {
    if known.order != Order::Rescue {
        known.order = Order::Run;
    }
    if !enrolment.install_id.is_empty() && enrolment.install_id != known.install_id {
        tracing::warn!(
            ordered = known.install_id,
            "a new install is ordered: boot this machine from the network to have it carried out"
        );
        known.install_id.clone_from(&enrolment.install_id);
    }
    known
}

fn unidentified() -> Fault {
    let what = "the boot server has not said which node this machine is";
    Fault::new(codes::UNKNOWN, Kind::Unavailable, what, "check that the boot server runs")
}

/// Installed means that the root is on a disk and not in memory, as it is after a netboot.
fn installed(machine: &MachineSettings) -> Result<Probe, Fault> {
    let mounts = std::fs::read_to_string(machine.path("/proc/mounts")).unwrap_or_default();
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
            "install it with target = \"lab\" or \"nixos\", or with disko and nixos-install",
        )),
        _ => Ok(Probe::True),
    }
}
