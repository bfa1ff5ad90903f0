//! Steps identity and enroll: keys are made here and never leave; certificates come for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootserver::wire::{ClaimRequest, EnrollRequest, Enrolled, RenewRequest};
use fault::{Fault, Kind};
use identity::{KeyPair, TlsFiles};
use inventory::{Inventory, Role};
use serde::{Deserialize, Serialize};
use steps::Probe;
use time::OffsetDateTime;

use crate::agent::state_fault;
use crate::bootserver::{BootServer, parse_inventory};
use crate::identify::{self, Known};
use crate::{Mode, Settings, codes, files, ssh};

/// Whose keys a node holds: its own, and one for each service that it may run.
const HOLDERS: [&str; 2] = ["node", "chainfire"];

/// The services of a node that need certificates.
fn services(inventory: &Inventory, node: &str) -> &'static [&'static str] {
    match inventory.node(node) {
        Ok(node) if !node.has(Role::Control) => &[],
        _ => &HOLDERS[1..],
    }
}

/// What the boot server said at enrolment; kept, so that a node starts without the boot server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    /// The name under which this machine was enrolled.
    pub(crate) node: String,
    /// The cluster's id.
    pub(crate) cluster_id: String,
    pub(crate) inventory: serde_json::Value,
    /// The install that made this node; empty where nothing was installed.
    #[serde(default)]
    pub(crate) install_id: String,
    /// As the boot server gave it; empty where nothing was installed.
    #[serde(default)]
    pub(crate) machine_id: String,
}

impl Enrolment {
    pub(crate) fn read(settings: &Settings) -> Result<Option<Enrolment>, Fault> {
        let path = settings.enrolment();
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Fault::new(
                codes::STATE,
                Kind::Corrupt,
                format!("cannot read {}: {error}", path.display()),
                "delete the file and make a new join token: the node enrols again",
            )
        })
    }

    pub(crate) fn inventory(&self) -> Result<Inventory, Fault> {
        parse_inventory(&self.inventory)
    }
}

/// Where a holder's certificate and key lie.
pub(crate) fn tls_files(settings: &Settings, holder: &str) -> TlsFiles {
    let folder = settings.identity_dir();
    TlsFiles {
        cert: folder.join(format!("{holder}.cert.pem")),
        key: folder.join(format!("{holder}.key.pem")),
        ca: folder.join("ca.pem"),
    }
}

fn key_path(settings: &Settings, holder: &str) -> PathBuf {
    tls_files(settings, holder).key
}

pub(crate) fn probe_keys(settings: &Settings) -> Result<Probe, Fault> {
    for holder in HOLDERS {
        let path = key_path(settings, holder);
        if !path.exists() {
            return Ok(Probe::False);
        }
        KeyPair::load(&path)?;
    }
    Ok(Probe::True)
}

/// Makes the keys that are missing. A key that is there stays: it is the node's identity.
pub(crate) fn make_keys(settings: &Settings) -> Result<(), Fault> {
    files::make_private_folder(&settings.identity_dir())?;
    for holder in HOLDERS {
        let path = key_path(settings, holder);
        if !path.exists() {
            KeyPair::create()?.save(&path)?;
        }
    }
    Ok(())
}

/// Enrolled, and every certificate that the node needs holds. One that should be renewed holds too:
/// a node must start while the boot server is away.
pub(crate) fn probe(settings: &Settings, node: &str) -> Result<Probe, Fault> {
    let enrolled = usable(settings, node)?
        && held_services(settings)?.iter().all(|service| holds(settings, service));
    Ok(if enrolled { Probe::True } else { Probe::False })
}

/// The boot server's answer is kept, and the node's own certificate is there, fits its key, and
/// holds: enough to be given the others.
pub(crate) fn usable(settings: &Settings, node: &str) -> Result<bool, Fault> {
    let enrolment = Enrolment::read(settings)?;
    Ok(enrolment.is_some_and(|it| it.node == node) && holds(settings, HOLDERS[0]))
}

fn holds(settings: &Settings, holder: &str) -> bool {
    let loaded = rpc::Tls::load(&tls_files(settings, holder));
    if let Err(fault) = &loaded {
        tracing::info!(holder, %fault, "no usable certificate");
    }
    loaded.is_ok()
}

/// The services for which an enrolled node has certificates.
fn held_services(settings: &Settings) -> Result<&'static [&'static str], Fault> {
    let Some(enrolment) = Enrolment::read(settings)? else { return Ok(&[]) };
    Ok(services(&enrolment.inventory()?, &enrolment.node))
}

/// From when to when the node's own certificate holds, since 1970.
pub(crate) fn node_dates(settings: &Settings) -> Option<(Duration, Duration)> {
    let pem = std::fs::read_to_string(tls_files(settings, HOLDERS[0]).cert).ok()?;
    let info = identity::describe_cert(&pem).ok()?;
    let since =
        |date: OffsetDateTime| Duration::from_secs(date.unix_timestamp().max(0).unsigned_abs());
    Some((since(info.not_before), since(info.not_after)))
}

/// A node that asks for its first certificates.
pub(crate) struct Enrolling<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) server: &'a BootServer,
    pub(crate) node: &'a str,
    /// What the boot server said of the machine, where it was asked.
    pub(crate) known: Option<&'a Known>,
}

impl Enrolling<'_> {
    /// Asks the boot server for certificates, with the join token from the file. Without one, or
    /// when it is refused, a token is claimed; that one is used at once and never written down, so
    /// one that expired midway is simply claimed again.
    pub(crate) async fn act(&self) -> Result<(), Fault> {
        let refused = match read_token(&self.settings.token_file) {
            Ok(token) => match self.with_token(token).await {
                Err(fault) if refuses(&fault) => fault,
                done => return done,
            },
            Err(missing) => missing,
        };
        match self.claim().await {
            Ok(Some(token)) => self.with_token(token).await,
            Ok(None) => Err(refused),
            Err(fault) if fault.kind.passes() || is_overtaken(&fault) => Err(fault),
            Err(fault) => {
                let what = format!("{}; {} {}", refused.what, fault.code, fault.what);
                Err(Fault { what, ..refused })
            }
        }
    }

    async fn with_token(&self, token: String) -> Result<(), Fault> {
        let Enrolling { settings, server, node, known } = self;
        let services = known.map_or(&HOLDERS[1..], |known| services(&known.inventory, &known.node));
        let (csr_node, csrs) = requests(settings, services)?;
        let request = EnrollRequest {
            node: (*node).to_owned(),
            token,
            csr_node,
            csrs,
            identify: identify::seen(settings),
            host_key: match settings.mode {
                Mode::Systemd => ssh::host_key(&settings.machine),
                Mode::Process => None,
            },
            install_id: known.map(|known| known.install_id.clone()),
        };
        let ids = known.map(|known| (known.install_id.as_str(), known.machine_id.as_str()));
        keep(settings, node, ids.unwrap_or_default(), server.enroll(&request).await?)
    }

    /// A token for this machine and this key; `None` when there is nothing to claim one for.
    async fn claim(&self) -> Result<Option<String>, Fault> {
        let Some(known) = self.known else { return Ok(None) };
        let key = KeyPair::load(&key_path(self.settings, HOLDERS[0]))?;
        let request = ClaimRequest {
            node: known.node.clone(),
            public_key: key.public_key_hash(),
            identify: identify::seen(self.settings),
            install_id: known.install_id.clone(),
        };
        let minted = self.server.claim(&request).await?;
        tracing::info!(token = minted.id, "the boot server handed out a join token");
        Ok(Some(minted.token))
    }
}

/// Whether another install was ordered meanwhile: what stands on this disk is not it.
pub(crate) fn is_overtaken(fault: &Fault) -> bool {
    fault.code == ::bootserver::codes::OTHER_INSTALL
}

/// Whether a token was looked at and refused, as one that is spent or expired.
fn refuses(fault: &Fault) -> bool {
    matches!(fault.kind, Kind::Denied | Kind::Unauthenticated)
}

/// Asks for the same certificates for longer, with the node's own certificate.
pub(crate) async fn renew(
    settings: &Settings,
    server: &BootServer,
    node: &str,
) -> Result<(), Fault> {
    let Some(old) = Enrolment::read(settings)? else {
        return Err(state_fault("an enrolled node lost its enrolment.json".to_owned()));
    };
    let (csr_node, csrs) = requests(settings, services(&old.inventory()?, node))?;
    let request = RenewRequest { node: node.to_owned(), csr_node, csrs };
    let renewed = server.renew(&request).await?;
    keep(settings, node, (&old.install_id, &old.machine_id), renewed)
}

/// Asks what the inventory is now, and keeps it. The question is a renewal of the node's own
/// certificate, for that is answered to the enrolled key alone and changes nothing; the certificate
/// is not used. To identify again would begin an install that was ordered for the next boot.
pub(crate) async fn look(settings: &Settings, node: &str) -> Result<(), Fault> {
    let server = BootServer::new(settings, Some(&tls_files(settings, HOLDERS[0])))?;
    let (csr_node, _) = requests(settings, &[])?;
    let request = RenewRequest { node: node.to_owned(), csr_node, csrs: BTreeMap::new() };
    let answer = server.renew(&request).await?;
    learn(settings, &answer.cluster_id, answer.inventory)
}

/// Keeps a newer inventory of an enrolled node: what it goes on with while the boot server is away
/// must be what the boot server said last, or an operator who was removed comes back.
pub(crate) fn learn(
    settings: &Settings,
    cluster_id: &str,
    inventory: serde_json::Value,
) -> Result<(), Fault> {
    let Some(old) = Enrolment::read(settings)? else { return Ok(()) };
    if old.cluster_id != cluster_id || old.inventory == inventory {
        return Ok(());
    }
    parse_inventory(&inventory)?.node(&old.node)?;
    tracing::info!("the inventory has changed");
    write(settings, &Enrolment { inventory, ..old })
}

fn requests(
    settings: &Settings,
    services: &[&str],
) -> Result<(String, BTreeMap<String, String>), Fault> {
    let csr = |holder: &str| -> Result<String, Fault> {
        Ok(KeyPair::load(&key_path(settings, holder))?.csr_pem()?)
    };
    let mut csrs = BTreeMap::new();
    for service in services {
        csrs.insert((*service).to_owned(), csr(service)?);
    }
    Ok((csr(HOLDERS[0])?, csrs))
}

/// The enrolment file is written last: while it is missing the step is not true and runs again.
fn keep(
    settings: &Settings,
    node: &str,
    (install_id, machine_id): (&str, &str),
    enrolled: Enrolled,
) -> Result<(), Fault> {
    let inventory = parse_inventory(&enrolled.inventory)?;
    for holder in HOLDERS[..1].iter().chain(services(&inventory, node)) {
        let paths = tls_files(settings, holder);
        let cert = enrolled.certs.get(*holder).ok_or_else(|| {
            Fault::new(
                codes::ANSWER,
                Kind::Internal,
                format!("the boot server sent no certificate for {holder}"),
                "boot server and firstboot must be of the same version",
            )
        })?;
        files::write(&paths.cert, cert.as_bytes())?;
        files::write(&paths.ca, enrolled.ca.as_bytes())?;
    }
    let enrolment = Enrolment {
        node: node.to_owned(),
        cluster_id: enrolled.cluster_id,
        inventory: enrolled.inventory,
        install_id: install_id.to_owned(),
        machine_id: machine_id.to_owned(),
    };
    write(settings, &enrolment)
}

fn write(settings: &Settings, enrolment: &Enrolment) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(enrolment).map_err(|error| {
        Fault::new(codes::ANSWER, Kind::Internal, error.to_string(), "report this as a bug")
    })?;
    files::write(&settings.enrolment(), &text)
}

/// Whether a certificate is so far into its life that it should be renewed.
pub(crate) fn renewal_due(settings: &Settings) -> Result<bool, Fault> {
    let now = OffsetDateTime::now_utc();
    for holder in HOLDERS[..1].iter().chain(held_services(settings)?) {
        let Some(pem) = files::read(&tls_files(settings, holder).cert)? else { continue };
        if identity::describe_cert(&String::from_utf8_lossy(&pem))?.due(now) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_token(path: &Path) -> Result<String, Fault> {
    let missing = |what: String| {
        Fault::new(
            codes::TOKEN,
            Kind::Unavailable,
            what,
            "make one with plasma token new <node>, and write it to that file",
        )
    };
    let bytes = files::read(path)?
        .ok_or_else(|| missing(format!("there is no join token in {}", path.display())))?;
    let token = String::from_utf8_lossy(&bytes).trim().to_owned();
    if token.is_empty() {
        return Err(missing(format!("the join token in {} is empty", path.display())));
    }
    Ok(token)
}
