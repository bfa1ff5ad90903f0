//! A lab's folder: `lab.json` says in which network namespace its machines are, and with which
//! files one gets in. A command that speaks with machines runs itself again in that namespace.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use fault::{Fault, Kind};
use serde::Deserialize;

use crate::codes;
use crate::home::{Home, folder};

/// Set for the process that runs in the namespace, so that it does not start itself for ever.
const INSIDE: &str = "PLASMA_NETNS";
const MAX_BYTES: u64 = 1 << 16;

/// What `lab.json` says; what it says beside that is not for us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Lab {
    pub(crate) netns: Option<String>,
    pub(crate) bootserver: Option<String>,
    pub(crate) operator: Option<PathBuf>,
    pub(crate) ssh_key: Option<PathBuf>,
}

impl Lab {
    /// Of the folder, if it is a lab's. Relative paths are meant from the folder.
    pub(crate) fn read(home: &Home) -> Result<Option<Lab>, Fault> {
        let path = home.dir().join("lab.json");
        match path.metadata() {
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(bad(&path, "it is too long"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(folder("read", &path, &error)),
        }
        let text = std::fs::read_to_string(&path).map_err(|e| folder("read", &path, &e))?;
        let mut lab: Lab = serde_json::from_str(&text).map_err(|e| bad(&path, &e.to_string()))?;
        for file in [&mut lab.operator, &mut lab.ssh_key].into_iter().flatten() {
            *file = home.dir().join(&file);
        }
        if let Some(name) = lab.netns.as_deref().filter(|name| !is_name(name)) {
            return Err(bad(&path, &format!("{name:?} is no name of a network namespace")));
        }
        Ok(Some(lab))
    }
}

/// Goes on in the lab's network namespace, if the folder is a lab's that has one.
pub(crate) fn enter(home: &Home) -> Result<(), Fault> {
    let Some(name) = Lab::read(home)?.and_then(|lab| lab.netns) else { return Ok(()) };
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == *name) {
        return Ok(());
    }
    if !Path::new("/run/netns").join(&name).exists() {
        return Err(Fault::new(
            codes::LAB,
            Kind::Unavailable,
            format!(
                "the lab in {} does not run: no network namespace {name}",
                home.dir().display()
            ),
            "start it and leave it running: scripts/lab --keep",
        ));
    }
    let program = std::env::current_exe().map_err(|e| folder("find", Path::new("plasma"), &e))?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name]).arg(program).args(std::env::args_os().skip(1));
    // returns only when it could not
    let error = command.env(INSIDE, &name).exec();
    Err(Fault::new(
        codes::LAB,
        Kind::Internal,
        format!("cannot enter the network namespace {name}: {error}"),
        "this needs ip (package iproute2) and root",
    ))
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.len() <= 64 && !text.starts_with(['-', '.']) && text.bytes().all(plain)
}

fn bad(path: &Path, why: &str) -> Fault {
    Fault::new(
        codes::LAB,
        Kind::Invalid,
        format!("{} is no lab's description: {why}", path.display()),
        "the lab writes it anew: scripts/lab --keep",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_folder_says_where_and_with_what() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path().to_owned())).unwrap();
        assert_eq!(Lab::read(&home).unwrap(), None);
        enter(&home).unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("lab.json"), text).unwrap();
        write(r#"{"netns":"plasma-lab-1","operator":"bootserver/operator","ssh_key":"/k","x":1}"#);
        let lab = Lab::read(&home).unwrap().unwrap();
        assert_eq!(lab.operator.unwrap(), dir.path().join("bootserver/operator"));
        assert_eq!(lab.ssh_key.unwrap(), Path::new("/k"));
        assert_eq!(enter(&home).unwrap_err().code, codes::LAB, "it does not run");
        for text in [r#"{"netns":"../x"}"#, r#"{"netns":"-x"}"#, "7", r#"{"netns":1}"#] {
            write(text);
            assert_eq!(Lab::read(&home).unwrap_err().code, codes::LAB, "{text}");
        }
    }
}
