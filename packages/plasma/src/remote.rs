//! Which boot server a command speaks with, as whom.

use std::path::PathBuf;

use bootserver::client::Operator;
use fault::{Fault, Kind};
use identity::TlsFiles;
use inventory::Inventory;
use serde::{Deserialize, Serialize};

use crate::cloud::base;
use crate::codes;
use crate::home::{Home, folder};
use crate::lab::Lab;

/// Which boot server.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ServerArgs {
    /// The boot server; without it the one that runs from the folder.
    #[arg(long, value_name = "URL", env = "PLASMA_BOOTSERVER", global = true)]
    bootserver: Option<String>,
    /// The folder with the operator's cert.pem, key.pem and ca.pem.
    #[arg(long, value_name = "DIR", env = "PLASMA_OPERATOR", global = true)]
    operator: Option<PathBuf>,
}

/// Where `plasma serve` serves, for the commands beside it: `serve.json` of the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) bootserver: String,
}

/// A boot server, and what one needs to call it.
pub(crate) struct Remote {
    pub(crate) base: String,
    pub(crate) files: TlsFiles,
    /// What it serves, when that lies in the folder.
    pub(crate) inventory: Option<Inventory>,
    /// A lab's key for its machines.
    pub(crate) ssh_key: Option<PathBuf>,
    /// Whether the folder is that of `plasma up`.
    pub(crate) local: bool,
}

impl Remote {
    /// What is given comes first; then the folder, which is a lab's, a boot server's, or that of
    /// a cloud on this machine.
    pub(crate) fn find(home: &Home, args: &ServerArgs) -> Result<Remote, Fault> {
        let lab = Lab::read(home)?.unwrap_or_default();
        let served = served(home)?;
        let is_elsewhere = args.bootserver.is_some();
        let files = match args.operator.clone().or(lab.operator) {
            Some(dir) => TlsFiles::in_dir(dir),
            None => {
                home.must_exist()?;
                home.operator()
            }
        };
        let local = !is_elsewhere && lab.bootserver.is_none() && served.is_none();
        let base = (args.bootserver.clone())
            .or(lab.bootserver)
            .or(served.map(|served| served.bootserver))
            .unwrap_or_else(base);
        let inventory = if is_elsewhere { None } else { home.inventory()? };
        Ok(Remote { base, files, inventory, ssh_key: lab.ssh_key, local })
    }

    /// Calls it.
    pub(crate) fn operator(&self) -> Result<Operator, Fault> {
        Operator::new(&self.base, &self.files)
    }
}

/// What `plasma serve` of this folder left for others.
pub(crate) fn served(home: &Home) -> Result<Option<Served>, Fault> {
    let path = home.served_path();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(folder("read", &path, &error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Fault::new(
            codes::FOLDER,
            Kind::Internal,
            format!("{} is damaged: {error}", path.display()),
            "start the boot server again, which writes it anew: plasma serve",
        )
    })
}
