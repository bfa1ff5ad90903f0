//! Steps join, services and gates: the node's Chainfire, from an empty folder to a voter.
//!
//! An empty store is given its verdict by the boot server (form or join); a store that holds
//! something only has to run. Chainfire itself asks its peers to be added, catches up as a learner
//! and is promoted by the leader, so running this again at any point does no harm.

use std::net::SocketAddr;
use std::sync::Arc;

use bootserver::wire::Verdict;
use chainfire_client::{Client, EndpointStatus};
use fault::{Fault, Kind};
use inventory::{ClusterStart, Paths, Role, Start};
use rpc::Https;
use steps::Probe;

use crate::bootserver::{BootServer, patient};
use crate::enroll::{self, Enrolment};
use crate::{Mode, Running, Service, Settings, Supervised, codes, files, systemd};

const CLIENT_PORT: u16 = 2379;
const OPS_PORT: u16 = 9379;
/// Chainfire's unit, in systemd mode.
pub(crate) const UNIT: &str = "chainfire.service";

/// This node's member of the cluster.
pub(crate) struct Member {
    settings: Arc<Settings>,
    process: Option<Supervised>,
    /// Whether the unit was asked to start, in this run.
    started: bool,
    client: Option<Client>,
}

impl Member {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Member { settings, process: None, started: false, client: None }
    }

    /// Chainfire runs, has a leader, and this node votes.
    pub(crate) async fn probe_joined(&mut self, enrolment: &Enrolment) -> Result<Probe, Fault> {
        if !enrolment.inventory()?.node(&enrolment.node)?.has(Role::Control) {
            return Ok(Probe::True);
        }
        match &self.process {
            None if self.settings.mode == Mode::Process => return Ok(Probe::False),
            Some(process) => {
                if let Running::Ended(how) = process.running() {
                    return Ok(Probe::Waiting(format!("chainfire ended ({how}): see its log")));
                }
            }
            None => {}
        }
        let status = match self.status(enrolment).await {
            Ok(status) => status,
            // starting what runs does no harm
            Err(_) if self.settings.mode == Mode::Systemd && !self.started => {
                return Ok(Probe::False);
            }
            Err(_) if self.settings.mode == Mode::Systemd => {
                let state = systemd::state(&self.settings.machine, UNIT).await;
                // one that gave up is started again, at this step's own pace
                self.started = !matches!(state.as_str(), "failed" | "inactive");
                return Ok(Probe::Waiting(format!("{UNIT} is {state}: see journalctl -u {UNIT}")));
            }
            Err(_) => return Ok(Probe::Waiting("chainfire is starting".to_owned())),
        };
        if status.leader == 0 {
            return Ok(Probe::Waiting(
                "there is no leader: a majority of the members must run".into(),
            ));
        }
        if status.learner {
            return Ok(Probe::Waiting("catching up as a learner".to_owned()));
        }
        Ok(Probe::True)
    }

    /// Writes what the verdict says, and starts Chainfire.
    pub(crate) async fn join(
        &mut self,
        enrolment: &Enrolment,
        server: &BootServer,
    ) -> Result<(), Fault> {
        let fresh = files::is_empty(&self.settings.chainfire_data())?;
        if fresh || !self.begun() {
            let start = if fresh { self.verdict(enrolment, server).await? } else { Start::Join };
            self.configure(enrolment, start)?;
        }
        match self.settings.mode {
            Mode::Systemd => {
                self.render(enrolment)?;
                systemd::start(&self.settings.machine, UNIT).await?;
                self.started = true;
                Ok(())
            }
            Mode::Process => {
                let service = Service {
                    name: "chainfire",
                    bin: self.settings.chainfire_bin.clone(),
                    config: self.settings.chainfire_toml(),
                };
                self.process.get_or_insert_with(|| Supervised::start(service));
                Ok(())
            }
        }
    }

    /// Chainfire says that it is ready, or else why it is not.
    pub(crate) async fn probe_ready(&self, enrolment: &Enrolment) -> Result<Probe, Fault> {
        let inventory = enrolment.inventory()?;
        let node = inventory.node(&enrolment.node)?;
        if !node.has(Role::Control) {
            return Ok(Probe::True);
        }
        let url = format!("http://{}/readyz", SocketAddr::new(node.address, OPS_PORT));
        match Https::plain().get_text(&url).await {
            Ok(_) => Ok(Probe::True),
            Err(error) => Ok(Probe::Waiting(format!("chainfire: {error}"))),
        }
    }

    /// The gates by name: `quorum` (a majority answers a linearizable call), `listed` (the members
    /// include this node as a voter), `leader` (there is one).
    pub(crate) async fn probe_gates(&mut self, enrolment: &Enrolment) -> Result<Probe, Fault> {
        if !enrolment.inventory()?.node(&enrolment.node)?.has(Role::Control) {
            return Ok(Probe::True);
        }
        let members = match self.client(enrolment)?.members().await {
            Ok(members) => members,
            Err(error) => return Ok(Probe::Waiting(format!("gate quorum: {error}"))),
        };
        let node = &enrolment.node;
        if !members.iter().any(|member| &member.name == node && !member.learner) {
            return Ok(Probe::Waiting(format!("gate listed: {node} is no voter yet")));
        }
        match self.status(enrolment).await {
            Ok(status) if status.leader != 0 => Ok(Probe::True),
            _ => Ok(Probe::Waiting("gate leader: there is none".to_owned())),
        }
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
    }

    async fn verdict(&self, enrolment: &Enrolment, server: &BootServer) -> Result<Start, Fault> {
        let answer = server.form(&enrolment.node).await.map_err(patient)?;
        if answer.cluster_id != enrolment.cluster_id {
            return Err(Fault::new(
                codes::OTHER_CLUSTER,
                Kind::Precondition,
                format!(
                    "enrolled in cluster {}, but the boot server now serves {}",
                    enrolment.cluster_id, answer.cluster_id
                ),
                "give firstboot an empty state_dir to join the other cluster",
            ));
        }
        tracing::info!(verdict = ?answer.verdict, "the boot server says how this node's store begins");
        Ok(match answer.verdict {
            Verdict::Form => Start::Form,
            Verdict::Join => Start::Join,
        })
    }

    fn configure(&self, enrolment: &Enrolment, start: Start) -> Result<(), Fault> {
        let begin = ClusterStart { cluster_id: enrolment.cluster_id.clone(), initial: start };
        match self.settings.mode {
            Mode::Systemd => {
                let lines = begin.environment().map(|(name, value)| format!("{name}={value}\n"));
                files::write(&self.settings.chainfire_env(), lines.concat().as_bytes())
            }
            Mode::Process => {
                let tls = enroll::tls_files(&self.settings, "chainfire");
                let paths = Paths {
                    data_dir: self.settings.chainfire_data(),
                    cert: tls.cert,
                    key: tls.key,
                    ca: tls.ca,
                };
                let settings = inventory::chainfire_settings(
                    &enrolment.inventory()?,
                    &enrolment.node,
                    &paths,
                )?;
                let text = format!("{}{settings}", begin.toml());
                files::write(&self.settings.chainfire_toml(), text.as_bytes())
            }
        }
    }

    /// The unit's settings where Nix made none; the system forgets them at each boot.
    fn render(&self, enrolment: &Enrolment) -> Result<(), Fault> {
        let Some(path) = self.settings.unit_toml() else { return Ok(()) };
        let inventory = enrolment.inventory()?;
        let text = inventory::chainfire_settings(&inventory, &enrolment.node, &Paths::default())?;
        files::publish(&path, text.as_bytes())
    }

    /// Whether the verdict was written down.
    fn begun(&self) -> bool {
        match self.settings.mode {
            Mode::Systemd => self.settings.chainfire_env().exists(),
            Mode::Process => self.settings.chainfire_toml().exists(),
        }
    }

    async fn status(&mut self, enrolment: &Enrolment) -> Result<EndpointStatus, Fault> {
        let answers = self.client(enrolment)?.status().await;
        let answer = answers.into_iter().next().map(|(_, answer)| answer);
        match answer {
            Some(Ok(status)) => Ok(status),
            Some(Err(error)) => Err(unreachable(error.to_string())),
            None => Err(unreachable("no endpoint".to_owned())),
        }
    }

    /// A client of this node's own member, with the node's certificate.
    fn client(&mut self, enrolment: &Enrolment) -> Result<&Client, Fault> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let inventory = enrolment.inventory()?;
                let endpoint = inventory.node(&enrolment.node)?.url(CLIENT_PORT);
                let tls = rpc::Tls::load(&enroll::tls_files(&self.settings, "node"))?;
                Client::connect([endpoint], Some(tls))
                    .map_err(|error| unreachable(error.to_string()))?
            }
        };
        Ok(self.client.insert(client))
    }
}

fn unreachable(what: String) -> Fault {
    Fault::new(codes::STATE, Kind::Unavailable, what, "see chainfire's log on this node")
}
