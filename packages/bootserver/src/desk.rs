//! What each request means: decides by the registry, writes it down, then signs or answers.
//! No HTTP here.

mod netboot;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fault::{Fault, Kind};
use identity::{Authority, SpiffeId, TokenState, public_key_hash_of_csr};
use inventory::{Inventory, Node};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::boot::images::Images;
use crate::boot::machines::Seen;
use crate::certificates::{Wanted, days, ensure, role_for, sans_of};
use crate::codes;
use crate::folder::Folder;
use crate::progress::Reports;
use crate::registry::{Enrolling, Registry, peers, unix_millis};
use crate::settings::{BootSettings, MIN_TTL_SECONDS, Settings};
use crate::wire;

pub(crate) use netboot::Ports;

const REGISTRY: &str = "registry.json";
const PROGRESS: &str = "progress.json";
const MACHINES: &str = "machines.json";
/// A host key's public line is shorter.
const MAX_HOST_KEY: usize = 1024;

/// The boot server without its listeners.
pub(crate) struct Desk {
    folder: Folder,
    authority: Authority,
    inventory: Inventory,
    inventory_json: serde_json::Value,
    settings: Settings,
    /// Held over the write to disk: promises are made one after the other.
    registry: AsyncMutex<Registry>,
    reports: Mutex<(Reports, Saved)>,
    machines: Mutex<(Seen, Saved)>,
    images: Images,
    ports: OnceLock<Ports>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Saved {
    Yes,
    No,
}

impl Desk {
    /// Opens the state folder and makes sure of the server's and the operator's certificates.
    pub(crate) fn open(settings: Settings, inventory: Inventory) -> Result<Desk, Fault> {
        let folder = Folder::open(&settings.state_dir)?;
        folder.check(&inventory)?;
        let authority = folder.authority()?;
        let mut registry: Registry = folder.load(REGISTRY)?.unwrap_or_default();
        if registry.ensure_installs(&inventory) {
            folder.store(REGISTRY, &registry)?;
        }
        let mut machines: Seen = folder.load(MACHINES)?.unwrap_or_default();
        machines.keep(|node| inventory.nodes.contains_key(node));
        let images = Images::new(&settings.boot.images);
        let mut reports: Reports = folder.load(PROGRESS)?.unwrap_or_default();
        reports.keep(|node| inventory.nodes.contains_key(node));
        let inventory_json = serde_json::from_str(&inventory.to_json())
            .map_err(|e| Fault::new(codes::DAMAGED, Kind::Internal, e.to_string(), ""))?;
        let desk = Desk {
            folder,
            authority,
            inventory,
            inventory_json,
            settings,
            registry: AsyncMutex::new(registry),
            reports: Mutex::new((reports, Saved::Yes)),
            machines: Mutex::new((machines, Saved::Yes)),
            images,
            ports: OnceLock::new(),
        };
        desk.renew_own()?;
        Ok(desk)
    }

    /// The state folder.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The settings of netboot.
    pub(crate) fn boot_settings(&self) -> &BootSettings {
        &self.settings.boot
    }

    /// The inventory, for an operator.
    pub(crate) fn inventory_json(&self) -> &serde_json::Value {
        &self.inventory_json
    }

    /// The inventory, for a node: of the others' machines the serial numbers are left out, by which
    /// one could pose as them.
    pub(crate) fn inventory_for(&self, node: &str) -> serde_json::Value {
        let mut inventory = self.inventory_json.clone();
        let nodes = inventory.get_mut("nodes").and_then(serde_json::Value::as_object_mut);
        for (_, other) in nodes.into_iter().flatten().filter(|(name, _)| *name != node) {
            if let Some(line) = other.as_object_mut() {
                line.remove("serial");
            }
        }
        inventory
    }

    /// Renews the server's and the operator's certificates when their time has come.
    pub(crate) fn renew_own(&self) -> Result<bool, Fault> {
        let cluster = self.folder.cluster();
        let address = self.inventory.cluster.bootserver.address;
        let mut sans: Vec<_> = [address, [127, 0, 0, 1].into(), self.settings.listen.ip()]
            .into_iter()
            .filter(|ip| !ip.is_unspecified())
            .map(identity::San::Ip)
            .collect();
        sans.dedup();
        sans.extend(["localhost", "bootserver"].map(|name| identity::San::Dns(name.to_owned())));
        sans.push(identity::San::Dns(self.inventory.fqdn("bootserver")));
        let id = SpiffeId::service(cluster, "bootserver", "bootserver")?;
        let wanted = Wanted { id, sans, days: self.settings.certificates.own_days };
        let server = ensure(&self.authority, &self.folder.server_files(), &wanted)?;
        let operator = self.folder.renew_operator(&self.authority, &self.settings.certificates)?;
        Ok(server || operator)
    }

    /// `POST /v1/enroll`
    pub(crate) async fn enroll(
        self: &Arc<Self>,
        request: wire::EnrollRequest,
    ) -> Result<wire::Enrolled, Fault> {
        let public_key = public_key_hash_of_csr(&request.csr_node)?;
        let host_key = host_key(request.host_key.as_deref())?;
        let now = SystemTime::now();
        let desk = Arc::clone(self);
        self.change(move |registry, inventory| {
            let asked = Enrolling {
                node: &request.node,
                token: &request.token,
                public_key: &public_key,
                identify: &request.identify,
                host_key: host_key.as_deref(),
                install_id: request.install_id.as_deref(),
            };
            registry.enroll(inventory, &asked, now)?;
            // before the token counts as spent: a request that is refused costs nothing
            desk.certify(&request.node, &request.csr_node, &request.csrs)
        })
        .await
    }

    /// `POST /v1/renew`: the caller has shown its certificate for this node and key.
    pub(crate) async fn renew(
        &self,
        request: &wire::RenewRequest,
    ) -> Result<wire::Enrolled, Fault> {
        let public_key = public_key_hash_of_csr(&request.csr_node)?;
        self.registry.lock().await.check_key(&request.node, &public_key)?;
        self.certify(&request.node, &request.csr_node, &request.csrs)
    }

    /// Refuses a certificate whose key has been replaced.
    pub(crate) async fn check_key(&self, node: &str, public_key: &str) -> Result<(), Fault> {
        self.registry.lock().await.check_key(node, public_key)
    }

    /// `POST /v1/form`: the caller has shown its certificate.
    pub(crate) async fn form(
        self: &Arc<Self>,
        request: wire::FormRequest,
        public_key: String,
    ) -> Result<wire::FormAnswer, Fault> {
        let now = SystemTime::now();
        let node = request.node.clone();
        let verdict = self
            .change(move |registry, inventory| {
                registry.check_key(&request.node, &public_key)?;
                registry.form(inventory, &request.node, &public_key, request.insist, now)
            })
            .await?;
        tracing::info!(node, ?verdict, "form or join");
        Ok(wire::FormAnswer {
            verdict,
            cluster_id: self.folder.cluster_id().to_owned(),
            peers: peers(&self.inventory, &node),
        })
    }

    /// `POST /v1/progress`
    pub(crate) async fn progress(
        self: &Arc<Self>,
        progress: wire::Progress,
        verified: bool,
    ) -> Result<(), Fault> {
        self.inventory.node(&progress.node)?;
        if verified {
            self.note_progress(&progress).await?;
        }
        let mut reports = self.reports.lock();
        reports.0.take(progress, verified, unix_millis(SystemTime::now()), Instant::now())?;
        reports.1 = Saved::No;
        Ok(())
    }

    /// Whether there is anything for [`Desk::save_reports`].
    pub(crate) fn has_unsaved_reports(&self) -> bool {
        self.reports.lock().1 == Saved::No || self.machines.lock().1 == Saved::No
    }

    /// Writes the reports and the machines that came since the last time.
    pub(crate) fn save_reports(&self) -> Result<(), Fault> {
        self.save(PROGRESS, &self.reports)?;
        self.save(MACHINES, &self.machines)
    }

    fn save<T: serde::Serialize>(&self, file: &str, kept: &Mutex<(T, Saved)>) -> Result<(), Fault> {
        let copy = {
            let mut kept = kept.lock();
            if kept.1 == Saved::Yes {
                return Ok(());
            }
            kept.1 = Saved::Yes;
            serde_json::to_value(&kept.0).unwrap_or_default()
        };
        let stored = self.folder.store(file, &copy);
        if stored.is_err() {
            kept.lock().1 = Saved::No;
        }
        stored
    }

    /// `GET /v1/status`
    pub(crate) async fn status(&self) -> wire::Status {
        let registry = self.registry.lock().await;
        let reports = self.reports.lock();
        let status_of = |(name, node): (&String, &Node)| {
            let mut status = wire::NodeStatus {
                address: node.address.to_string(),
                roles: node.roles.iter().map(ToString::to_string).collect(),
                enrolled: registry.member(name).map(|member| member.enrolled),
                report: reports.0.latest(name).cloned(),
                claimed: reports.0.claimed(name).cloned(),
                ..wire::NodeStatus::default()
            };
            self.netboot_status(&registry, name, &mut status);
            (name.clone(), status)
        };
        wire::Status {
            cluster: self.folder.cluster().to_owned(),
            cluster_id: self.folder.cluster_id().to_owned(),
            former: registry.grant().map(|grant| grant.node.clone()),
            nodes: self.inventory.nodes.iter().map(status_of).collect(),
        }
    }

    /// `POST /v1/tokens`
    pub(crate) async fn mint(
        self: &Arc<Self>,
        request: wire::TokenRequest,
    ) -> Result<wire::TokenMinted, Fault> {
        let limits = &self.settings.tokens;
        let seconds = request.ttl_seconds.unwrap_or(limits.default_ttl_seconds);
        if !(MIN_TTL_SECONDS..=limits.max_ttl_seconds).contains(&seconds) {
            let max = limits.max_ttl_seconds;
            return Err(Fault::new(
                codes::BAD_TTL,
                Kind::Invalid,
                format!("a token's lifetime of {seconds} s is outside {MIN_TTL_SECONDS} to {max}"),
                "name another, or change tokens.max_ttl_seconds of the boot server",
            ));
        }
        let now = SystemTime::now();
        let minted = self
            .change(move |registry, inventory| {
                registry.mint(inventory, &request.node, Duration::from_secs(seconds), now)
            })
            .await?;
        Ok(wire::TokenMinted {
            id: minted.id,
            token: minted.token,
            expires: unix_millis(minted.expires) / 1000,
        })
    }

    /// `DELETE /v1/tokens/{id}`
    pub(crate) async fn revoke(self: &Arc<Self>, id: String) -> Result<(), Fault> {
        self.change(move |registry, _| registry.revoke(&id)).await
    }

    /// `GET /v1/tokens`
    pub(crate) async fn tokens(&self) -> wire::Tokens {
        let mut tokens = self.registry.lock().await.tokens(SystemTime::now());
        tokens.sort_by_key(|token| token.expires_unix);
        let info = |token: identity::TokenInfo| wire::TokenInfo {
            id: token.id,
            node: token.node,
            expires: token.expires_unix,
            state: match token.state {
                TokenState::Live => "fresh",
                TokenState::Spent => "used",
                TokenState::Expired => "expired",
                TokenState::Revoked => "revoked",
            }
            .to_owned(),
        };
        wire::Tokens { tokens: tokens.into_iter().map(info).collect() }
    }

    /// Changes the registry if there is something to change, and says so by `true`.
    async fn note(
        self: &Arc<Self>,
        note: impl FnOnce(&mut Registry) -> bool + Send + 'static,
    ) -> Result<(), Fault> {
        self.change_to(move |registry, _| Ok(((), note(registry)))).await
    }

    /// Changes the registry: on disk first, then in memory, then the answer. A fault, of the change
    /// or of the disk, leaves both as they were.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Registry, &Inventory) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.change_to(move |registry, inventory| Ok((change(registry, inventory)?, true))).await
    }

    async fn change_to<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Registry, &Inventory) -> Result<(T, bool), Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let desk = Arc::clone(self);
        // in a task of its own: a caller that hangs up must not leave disk and memory apart
        let task = tokio::spawn(async move {
            let mut registry = desk.registry.lock().await;
            let mut changed = registry.clone();
            let (answer, write) = change(&mut changed, &desk.inventory)?;
            if !write {
                return Ok(answer);
            }
            let writer = Arc::clone(&desk);
            let changed = blocking(move || {
                writer.folder.store(REGISTRY, &changed)?;
                Ok(changed)
            })
            .await?;
            *registry = changed;
            Ok(answer)
        });
        task.await.map_err(|e| internal(e.to_string()))?
    }

    fn certify(
        &self,
        name: &str,
        csr_node: &str,
        csrs: &BTreeMap<String, String>,
    ) -> Result<wire::Enrolled, Fault> {
        let node = self.inventory.node(name)?;
        let cluster = self.folder.cluster();
        let sans = sans_of(&self.inventory, name, node);
        let ttl = days(self.settings.certificates.node_days);
        let id = SpiffeId::node(cluster, name)?;
        let mut certs = BTreeMap::new();
        certs.insert("node".to_owned(), self.authority.sign(csr_node, &id, &sans, ttl)?);
        for (service, csr) in csrs {
            if !role_for(service).is_some_and(|role| node.has(role)) {
                let known: String = service.chars().take(64).collect();
                return Err(Fault::new(
                    codes::NO_SUCH_SERVICE,
                    Kind::Denied,
                    format!("node {name:?} runs no service {known:?}"),
                    format!("check nodes.{name}.roles"),
                ));
            }
            let id = SpiffeId::service(cluster, service, name)?;
            certs.insert(service.clone(), self.authority.sign(csr, &id, &sans, ttl)?);
        }
        tracing::info!(node = name, services = csrs.len(), "certificates signed");
        Ok(wire::Enrolled {
            certs,
            ca: self.authority.ca_pem().to_owned(),
            cluster_id: self.folder.cluster_id().to_owned(),
            inventory: self.inventory_for(name),
        })
    }
}

/// Runs what waits for the disk where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|e| internal(e.to_string()))?
}

fn internal(what: String) -> Fault {
    Fault::new(codes::INTERNAL, Kind::Internal, what, "see the boot server's log")
}

/// An SSH public key's line, which operators' tools will put into `known_hosts`.
fn host_key(line: Option<&str>) -> Result<Option<String>, Fault> {
    let Some(line) = line.map(str::trim).filter(|line| !line.is_empty()) else { return Ok(None) };
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let key = words.next().unwrap_or_default();
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    let fits = (kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-"))
        && key.starts_with("AAAA")
        && key.bytes().all(base64)
        && line.len() <= MAX_HOST_KEY
        && !line.chars().any(char::is_control);
    if fits {
        // the comment is the node's business
        return Ok(Some(format!("{kind} {key}")));
    }
    let what = "the host key is no line of an SSH public key";
    Err(Fault::new(codes::BAD_KEY, Kind::Invalid, what, "send the line of the .pub file"))
}
