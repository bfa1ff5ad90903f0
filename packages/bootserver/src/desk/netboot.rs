//! What machines, agents and operators ask about netboot.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fault::{Fault, Kind};

use super::{Desk, Saved, blocking};
use crate::boot::images::{Image, Manifest};
use crate::boot::script::{Parts, render};
use crate::boot::{Asking, Choice, Decision, Facts, Fit, Moment, decide, decide_node, find};
use crate::codes;
use crate::registry::{Registry, unix_millis};
use crate::settings::HandOut;
use crate::wire;

/// Where the ports are that scripts name, when they are not known yet.
const BOOT_PORT: u16 = 8080;

/// The ports that were really taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) boot: Option<u16>,
}

impl Desk {
    /// The ports are known once both listeners are there.
    pub(crate) fn set_ports(&self, ports: Ports) {
        // a second time is impossible: the server starts once
        let _ = self.ports.set(ports);
    }

    /// Where machines fetch scripts and images.
    pub(crate) fn boot_url(&self) -> String {
        let port = self.ports.get().and_then(|ports| ports.boot).unwrap_or(BOOT_PORT);
        let address = std::net::SocketAddr::new(self.inventory.cluster.bootserver.address, port);
        format!("http://{address}")
    }

    /// `GET /boot/script`
    pub(crate) async fn script(self: &Arc<Self>, asking: Asking, from: IpAddr) -> String {
        let fit = find(&self.inventory, &asking);
        let node = match &fit {
            Fit::Node(node) => Some(node.as_str()),
            Fit::Doubtful { .. } | Fit::Nobody(_) => None,
        };
        self.note_machine(&asking, from, node, None);
        let manifest = self.manifest().await;
        let choice = {
            let registry = self.registry.lock().await;
            let problem = manifest.as_ref().err().map(|fault| fault.what.clone());
            self.decide_for(&registry, &asking, problem.as_deref(), Moment::Boot)
        };
        tracing::info!(
            node = choice.node,
            decision = choice.decision.name(),
            reason = choice.reasons.first(),
            mac = asking.cards(),
            %from,
            "boot"
        );
        self.render(&choice, manifest.ok().as_ref(), asking.macs.first().copied())
    }

    fn decide_for(
        &self,
        registry: &Registry,
        asking: &Asking,
        no_images: Option<&str>,
        moment: Moment,
    ) -> Choice {
        let inventory = &self.inventory;
        let known = self.machines.lock().0.known(inventory);
        decide(&Facts { inventory, registry, known: &known, no_images, moment }, asking)
    }

    fn render(
        &self,
        choice: &Choice,
        manifest: Option<&Manifest>,
        mac: Option<inventory::Mac>,
    ) -> String {
        let node = choice.node.as_deref().unwrap_or_default();
        let parts = Parts {
            base: &self.boot_url(),
            manifest,
            extra_args: &self.settings.boot.extra_args,
            machine_id: &crate::boot::machine_id(self.folder.cluster_id(), node),
            mac,
        };
        render(choice, &parts)
    }

    async fn manifest(self: &Arc<Self>) -> Result<Manifest, Fault> {
        let desk = Arc::clone(self);
        blocking(move || desk.images.manifest()).await
    }

    /// `GET /boot/images/manifest.json`
    pub(crate) async fn manifest_text(self: &Arc<Self>) -> Result<Vec<u8>, Fault> {
        let desk = Arc::clone(self);
        blocking(move || desk.images.manifest_text()).await
    }

    /// `GET /boot/images/{name}`
    pub(crate) async fn image(self: &Arc<Self>, name: String) -> Result<Image, Fault> {
        let desk = Arc::clone(self);
        blocking(move || desk.images.open(&name)).await
    }

    /// `GET /boot/ca.cpio`: what makes an image this cluster's. No secret is in it.
    pub(crate) async fn ca_cpio(self: &Arc<Self>) -> Result<Vec<u8>, Fault> {
        let target = self.manifest().await.map_or_else(|_| "none".to_owned(), |m| m.target);
        let port = self.ports.get().map_or(self.settings.listen.port(), |ports| ports.api);
        let address = std::net::SocketAddr::new(self.inventory.cluster.bootserver.address, port);
        let toml = format!(
            "bootserver = \"https://{address}\"\n\
             ca = \"/etc/plasma/ca.pem\"\n\
             mode = \"systemd\"\n\
             target = \"{target}\"\n"
        );
        let ca = self.authority.ca_pem().as_bytes();
        let files = [("etc/plasma/ca.pem", ca), ("etc/plasma/firstboot.toml", toml.as_bytes())];
        Ok(crate::boot::cpio::newc(&files))
    }

    /// `POST /v1/identify`. No certificate is shown here: what the inventory says is told, kept and
    /// decided only for a machine with the node's serial number and all of its cards.
    pub(crate) async fn identify(
        self: &Arc<Self>,
        request: wire::IdentifyRequest,
        from: IpAddr,
    ) -> Result<wire::Identified, Fault> {
        let uuid = request.hardware.uuid.as_deref();
        let asking = Asking::of(&request.identify, uuid);
        let (choice, install_id) = {
            let registry = self.registry.lock().await;
            // a machine that runs already has its image
            let moment = Moment::Agent { rescue: request.rescue };
            let choice = self.decide_for(&registry, &asking, None, moment);
            let id = choice.node.as_deref().map(|node| registry.install_id(node).to_owned());
            (choice, id.unwrap_or_default())
        };
        let node = match self.meet(&choice, &request.identify) {
            Ok(node) => node,
            Err(fault) => {
                // an operator who looks for a new machine wants to see its parts; of what looks
                // like a node, nothing is kept
                let parts = choice.node.is_none().then_some(request.hardware);
                self.note_machine(&asking, from, None, parts);
                tracing::info!(
                    node = choice.node,
                    code = fault.code.0,
                    what = fault.what,
                    mac = asking.cards(),
                    %from,
                    "not identified"
                );
                return Err(fault);
            }
        };
        self.note_machine(&asking, from, Some(&node), Some(request.hardware));
        if choice.decision == Decision::Install {
            let (name, id) = (node.clone(), install_id.clone());
            // an order that came meanwhile has an id of its own
            self.note(move |registry| {
                registry.install_id(&name) == id && registry.begin_install(&name)
            })
            .await?;
        }
        if choice.decision == Decision::Rescue {
            let name = node.clone();
            self.note(move |registry| registry.met_rescue(&name)).await?;
        }
        let order = match choice.decision {
            Decision::Install => wire::Order::Install,
            Decision::LocalDisk => wire::Order::Run,
            Decision::Rescue => wire::Order::Rescue,
            Decision::Wait | Decision::Unknown => wire::Order::Wait,
        };
        tracing::info!(node, ?order, reason = choice.reasons.first(), %from, "identified");
        let inventory = self.inventory_for(&node);
        Ok(wire::Identified {
            machine_id: crate::boot::machine_id(self.folder.cluster_id(), &node),
            node,
            cluster: self.folder.cluster().to_owned(),
            cluster_id: self.folder.cluster_id().to_owned(),
            inventory,
            order,
            reason: choice.reasons.join("; "),
            install_id,
        })
    }

    /// The node that the agent's machine is. Whoever is none learns nothing but that.
    fn meet(&self, choice: &Choice, seen: &wire::Identify) -> Result<String, Fault> {
        let Some(node) = choice.node.clone() else {
            return Err(Fault::new(
                codes::UNKNOWN_MACHINE,
                // the inventory may be mended while the machine waits
                Kind::Unavailable,
                choice.reasons.join("; "),
                "write this machine's serial number and MACs into one node of nodes/cluster.nix",
            ));
        };
        // what the enrolment would refuse must not be installed either
        let met = crate::registry::recognise(&node, self.inventory.node(&node)?, seen);
        met.map(|()| node).map_err(|fault| {
            // in what it looks like the node is more than in what it lacks
            let doubt = choice.reasons.first().filter(|_| choice.decision == Decision::Wait);
            let what = doubt.unwrap_or(&fault.what).clone();
            Fault { kind: Kind::Unavailable, what, ..fault }
        })
    }

    /// Whether `POST /v1/claim` would be answered with a token at this moment.
    pub(crate) async fn check_claim(&self, request: &wire::ClaimRequest) -> Result<(), Fault> {
        if self.settings.enrollment.hand_out != HandOut::Declared {
            return Err(Fault::new(
                codes::NOT_HANDED_OUT,
                Kind::Denied,
                "this boot server hands out no join tokens by itself",
                format!(
                    "make one (plasma token new {}), or set enrollment.hand_out = \"declared\"",
                    request.node.chars().take(64).collect::<String>()
                ),
            ));
        }
        let is_hash = request.public_key.len() == 64
            && request.public_key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash {
            let what = "the claim's public_key is no SHA-256 in hex";
            return Err(Fault::new(codes::BAD_KEY, Kind::Invalid, what, "send the key's hash"));
        }
        let registry = self.registry.lock().await;
        self.may_claim(&registry, request)
    }

    /// `POST /v1/claim`, after [`Desk::check_claim`].
    pub(crate) async fn claim(
        self: &Arc<Self>,
        request: wire::ClaimRequest,
    ) -> Result<wire::TokenMinted, Fault> {
        let ttl = Duration::from_secs(self.settings.tokens.default_ttl_seconds);
        let (now, desk, name) = (SystemTime::now(), Arc::clone(self), request.node.clone());
        let minted = self
            .change(move |registry, inventory| {
                desk.may_claim(registry, &request)?;
                registry.claim(inventory, &request, ttl, now)
            })
            .await?;
        tracing::info!(node = name, id = minted.id, "join token handed out");
        Ok(wire::TokenMinted {
            id: minted.id,
            token: minted.token,
            expires: unix_millis(minted.expires) / 1000,
        })
    }

    fn may_claim(&self, registry: &Registry, request: &wire::ClaimRequest) -> Result<(), Fault> {
        let name = &request.node;
        self.inventory.node(name)?;
        let asking = Asking::of(&request.identify, None);
        let choice = self.decide_for(registry, &asking, None, Moment::Agent { rescue: false });
        let again = registry.is_enrolled_with(name, &request.public_key);
        if choice.node.as_ref() == Some(name) && (again || choice.decision == Decision::Install) {
            return Ok(());
        }
        let what = match &choice.node {
            Some(node) if node == name => {
                let reasons = choice.reasons.join("; ");
                format!("node {name:?} is not to be installed now: {reasons}")
            }
            _ => format!("this machine is not {name:?}: {}", choice.reasons.join("; ")),
        };
        Err(Fault::new(
            codes::NOT_TO_INSTALL,
            Kind::Denied,
            what,
            format!("see why: plasma boot explain {}", name.chars().take(64).collect::<String>()),
        ))
    }

    /// `GET /v1/machines`
    pub(crate) fn machines(&self) -> wire::Machines {
        self.machines.lock().0.list()
    }

    /// `GET /v1/boot/{node}`
    pub(crate) async fn explain(self: &Arc<Self>, node: &str) -> Result<wire::Explained, Fault> {
        let mac = self.inventory.node(node)?.macs.first().copied();
        let manifest = self.manifest().await;
        let problem = manifest.as_ref().err().map(|fault| fault.what.clone());
        let (known, seen) = {
            let machines = self.machines.lock();
            (machines.0.known(&self.inventory), machines.0.list().machines)
        };
        let mut choice = {
            let registry = self.registry.lock().await;
            let facts = Facts {
                inventory: &self.inventory,
                registry: &registry,
                known: &known,
                no_images: problem.as_deref(),
                moment: Moment::Boot,
            };
            decide_node(&facts, node, "")
        };
        let script = self.render(&choice, manifest.ok().as_ref(), mac);
        choice.reasons.extend(self.others(node, &seen));
        Ok(wire::Explained {
            node: node.to_owned(),
            decision: choice.decision.name().to_owned(),
            reasons: choice.reasons,
            script,
        })
    }

    /// The machines that look like the node and are not taken for it.
    fn others(&self, node: &str, seen: &[wire::MachineSeen]) -> Vec<String> {
        let doubt = |machine: &wire::MachineSeen| {
            let asking = Asking {
                macs: inventory::Mac::parse(&machine.mac).into_iter().collect(),
                serial: machine.serial.clone(),
                ..Asking::default()
            };
            match find(&self.inventory, &asking) {
                Fit::Doubtful { node: of, why } if of == node => {
                    Some(format!("the machine {} at {} waits: {why}", machine.mac, machine.address))
                }
                _ => None,
            }
        };
        seen.iter().filter_map(doubt).take(8).collect()
    }

    /// `POST /v1/nodes/{node}/order`
    pub(crate) async fn order(
        self: &Arc<Self>,
        node: &str,
        request: wire::OrderRequest,
    ) -> Result<wire::Explained, Fault> {
        let name = node.to_owned();
        self.change(move |registry, inventory| {
            registry.order(inventory, &name, request.order, request.sticky)
        })
        .await?;
        self.explain(node).await
    }

    /// What `GET /v1/status` says beside enrolment and reports.
    pub(super) fn netboot_status(
        &self,
        registry: &Registry,
        name: &str,
        status: &mut wire::NodeStatus,
    ) {
        let machines = self.machines.lock();
        let facts = Facts {
            inventory: &self.inventory,
            registry,
            known: &std::collections::BTreeMap::new(),
            no_images: None,
            moment: Moment::Boot,
        };
        if self.inventory.nodes.get(name).is_some_and(|node| !node.process) {
            status.decision = decide_node(&facts, name, "").decision.name().to_owned();
        }
        status.host_key = registry.member(name).and_then(|member| member.host_key.clone());
        status.install_id = registry.install_id(name).to_owned();
        status.hardware = machines.0.hardware(&self.inventory, name).cloned();
    }

    /// What a machine says, of which `hardware` goes to the node that it is, if it is one.
    fn note_machine(
        &self,
        asking: &Asking,
        from: IpAddr,
        node: Option<&str>,
        hardware: Option<wire::Hardware>,
    ) {
        let now = unix_millis(SystemTime::now());
        let mut machines = self.machines.lock();
        machines.0.note(asking, from.to_canonical().to_string(), node, hardware, now);
        machines.1 = Saved::No;
    }

    /// Notes in the registry what a verified report says of the cluster.
    pub(super) async fn note_progress(
        self: &Arc<Self>,
        progress: &wire::Progress,
    ) -> Result<(), Fault> {
        if !self.registry.lock().await.is_news(progress) {
            return Ok(());
        }
        let progress = progress.clone();
        self.note(move |registry| registry.note_progress(&progress)).await
    }
}
