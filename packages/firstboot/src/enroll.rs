//! Steps identity and enroll: keys are made here and never leave; certificates come for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bootserver::wire::{EnrollRequest, Enrolled, Identify, RenewRequest};
use fault::{Fault, Kind};
use identity::{KeyPair, TlsFiles};
use inventory::Inventory;
use serde::{Deserialize, Serialize};
use steps::Probe;
use time::OffsetDateTime;

use crate::bootserver::{BootServer, parse_inventory};
use crate::{Settings, codes, files};

/// Whose certificates a node holds: its own, and one for each service.
const HOLDERS: [&str; 2] = ["node", "chainfire"];

/// What the boot server said at enrolment; kept, so that a node starts without the boot server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    /// The name under which this machine was enrolled.
    pub(crate) node: String,
    /// The cluster's id.
    pub(crate) cluster_id: String,
    inventory: serde_json::Value,
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

/// Enrolled, and no certificate is so old that it should be renewed.
pub(crate) fn probe(settings: &Settings, node: &str) -> Result<Probe, Fault> {
    let enrolled = usable(settings, node)? && !renewal_due(settings)?;
    Ok(if enrolled { Probe::True } else { Probe::False })
}

/// The boot server's answer is kept, and every certificate is there, fits its key, and holds.
pub(crate) fn usable(settings: &Settings, node: &str) -> Result<bool, Fault> {
    if Enrolment::read(settings)?.is_none_or(|enrolment| enrolment.node != node) {
        return Ok(false);
    }
    for holder in HOLDERS {
        if let Err(fault) = rpc::Tls::load(&tls_files(settings, holder)) {
            tracing::info!(holder, %fault, "no usable certificate");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the boot server for certificates, with the join token.
pub(crate) async fn act(
    settings: &Settings,
    server: &BootServer,
    node: &str,
    identify: Identify,
) -> Result<(), Fault> {
    let token = read_token(&settings.token_file)?;
    let (csr_node, csrs) = requests(settings)?;
    let request = EnrollRequest {
        node: node.to_owned(),
        token,
        csr_node,
        csrs,
        identify,
        host_key: None,
        install_id: None,
    };
    keep(settings, node, server.enroll(&request).await?)
}

/// Asks for the same certificates for longer, with the node's own certificate.
pub(crate) async fn renew(
    settings: &Settings,
    server: &BootServer,
    node: &str,
) -> Result<(), Fault> {
    let (csr_node, csrs) = requests(settings)?;
    let request = RenewRequest { node: node.to_owned(), csr_node, csrs };
    keep(settings, node, server.renew(&request).await?)
}

fn requests(settings: &Settings) -> Result<(String, BTreeMap<String, String>), Fault> {
    let csr = |holder: &str| -> Result<String, Fault> {
        Ok(KeyPair::load(&key_path(settings, holder))?.csr_pem()?)
    };
    let mut csrs = BTreeMap::new();
    for service in &HOLDERS[1..] {
        csrs.insert((*service).to_owned(), csr(service)?);
    }
    Ok((csr(HOLDERS[0])?, csrs))
}

/// The enrolment file is written last: while it is missing the step is not true and runs again.
fn keep(settings: &Settings, node: &str, enrolled: Enrolled) -> Result<(), Fault> {
    for holder in HOLDERS {
        let paths = tls_files(settings, holder);
        let cert = enrolled.certs.get(holder).ok_or_else(|| {
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
    };
    let text = serde_json::to_vec_pretty(&enrolment).map_err(|error| {
        Fault::new(codes::ANSWER, Kind::Internal, error.to_string(), "report this as a bug")
    })?;
    files::write(&settings.enrolment(), &text)
}

/// Whether a certificate is so far into its life that it should be renewed.
pub(crate) fn renewal_due(settings: &Settings) -> Result<bool, Fault> {
    let now = OffsetDateTime::now_utc();
    for holder in HOLDERS {
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
            "make one with plasma token new --node <name>, and write it to that file",
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
