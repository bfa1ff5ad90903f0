//! A connection to a node: its host key is the one that it enrolled with, or there is none.
//! Nothing is trusted because it was seen first.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fault::{Fault, Kind};
use ssh2::{MethodType, Session};

use crate::codes;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER_MILLIS: u32 = 15_000;
const KEY_NAMES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Where to, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) node: String,
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    /// A line as in `known_hosts` without the name: `ssh-ed25519 AAAA…`.
    pub(crate) host_key: String,
    /// Its machine is told to boot the rescue system, whose host key is reported nowhere.
    pub(crate) is_rescue: bool,
    /// This key and no other.
    pub(crate) identity: Option<PathBuf>,
}

/// A session, and its socket to wait on.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) socket: TcpStream,
}

/// Connects, proves who is there, and logs in.
pub(crate) fn open(target: &Target) -> Result<Link, Fault> {
    let (kind, wanted) = key_of(target)?;
    let socket = TcpStream::connect_timeout(&target.address, CONNECT)
        .map_err(|error| unreachable(target, &error.to_string()))?;
    // keystrokes are small and must not wait for more
    let _ = socket.set_nodelay(true);
    let mut session =
        Session::new().map_err(|error| broken(target, "speak with", error.message()))?;
    session.set_timeout(ANSWER_MILLIS);
    let own = socket.try_clone().map_err(|error| unreachable(target, &error.to_string()))?;
    session.set_tcp_stream(own);
    // the server shows the kind of key that it enrolled with
    session.method_pref(MethodType::HostKey, &methods(&kind)).map_err(|error| {
        broken(target, &format!("compare host keys of the kind {kind} with"), error.message())
    })?;
    session.handshake().map_err(|error| unreachable(target, error.message()))?;
    let shown = session.host_key().map(|(key, _)| key.to_vec()).unwrap_or_default();
    if shown != wanted {
        return Err(Fault::new(
            codes::WRONG_HOST_KEY,
            Kind::Unauthenticated,
            format!(
                "{} at {} shows another host key than the one it enrolled with ({})",
                target.node,
                target.address,
                fingerprint(&shown)
            ),
            hint(target),
        ));
    }
    log_in(&session, target)?;
    Ok(Link { session, socket })
}

fn hint(target: &Target) -> &'static str {
    if target.is_rescue {
        "it is told to boot the rescue system, whose host key is made for each boot and reported \
         nowhere, so nobody can check who answers and nothing was sent to it: see its console; \
         ssh itself can get in, on a network that you trust"
    } else {
        "somebody else answers there, or the node was installed anew without enrolling, or is in \
         the rescue system: nothing was sent to it; look at plasma status and at the machine's \
         console"
    }
}

fn key_of(target: &Target) -> Result<(String, Vec<u8>), Fault> {
    let mut words = target.host_key.split_whitespace();
    let kind = words.next().unwrap_or_default().to_owned();
    match BASE64.decode(words.next().unwrap_or_default()) {
        Ok(key) if !key.is_empty() => Ok((kind, key)),
        _ => Err(Fault::new(
            codes::NO_HOST_KEY,
            Kind::Internal,
            format!("the boot server has no usable host key of {}", target.node),
            "see the boot server's log",
        )),
    }
}

/// RSA keys are used with newer signatures than their kind's name says.
fn methods(kind: &str) -> String {
    match kind {
        "ssh-rsa" => "rsa-sha2-512,rsa-sha2-256".to_owned(),
        other => other.to_owned(),
    }
}

fn log_in(session: &Session, target: &Target) -> Result<(), Fault> {
    let user = &target.user;
    let mut tried = Vec::new();
    if target.identity.is_none() && std::env::var_os("SSH_AUTH_SOCK").is_some() {
        match by_agent(session, user) {
            Ok(true) => return Ok(()),
            Ok(false) => tried.push("the agent's keys".to_owned()),
            Err(error) => tried.push(format!("the agent ({})", error.message())),
        }
    }
    for key in keys(target) {
        match session.userauth_pubkey_file(user, None, &key, None) {
            Ok(()) if session.authenticated() => return Ok(()),
            Ok(()) => tried.push(key.display().to_string()),
            Err(error) => tried.push(format!("{} ({})", key.display(), error.message())),
        }
    }
    let tried = if tried.is_empty() { "no key was found".to_owned() } else { tried.join(", ") };
    Err(Fault::new(
        codes::SSH_REFUSED,
        Kind::Denied,
        format!("{} lets {user} in with none of the keys: {tried}", target.node),
        "the operator's public key must stand in the inventory (operators, sshKeys) and its \
         private key be given by --identity, the agent or ~/.ssh; a key with a passphrase goes \
         through the agent: ssh-add",
    ))
}

fn by_agent(session: &Session, user: &str) -> Result<bool, ssh2::Error> {
    let mut agent = session.agent()?;
    agent.connect()?;
    agent.list_identities()?;
    Ok(agent.identities()?.iter().any(|key| agent.userauth(user, key).is_ok()))
}

fn keys(target: &Target) -> Vec<PathBuf> {
    if let Some(identity) = &target.identity {
        return vec![identity.clone()];
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let keys = KEY_NAMES.map(|name| home.join(".ssh").join(name));
    keys.into_iter().filter(|key| key.is_file()).collect()
}

fn fingerprint(key: &[u8]) -> String {
    match key.get(4..).and_then(|rest| rest.split(|b| *b == 0).next()) {
        Some(kind) if !kind.is_empty() => {
            let kind = String::from_utf8_lossy(kind);
            let end = BASE64.encode(key);
            let from = end.len().saturating_sub(16);
            format!("{kind} …{}", &end[from..])
        }
        _ => "none".to_owned(),
    }
}

fn unreachable(target: &Target, why: &str) -> Fault {
    Fault::new(
        codes::SSH_UNREACHABLE,
        Kind::Unavailable,
        format!("{} cannot be reached by SSH at {}: {why}", target.node, target.address),
        "see whether it is up: plasma status",
    )
}

pub(crate) fn broken(target: &Target, action: &str, why: &str) -> Fault {
    Fault::new(
        codes::SSH_BROKEN,
        Kind::Unavailable,
        format!("cannot {action} {} by SSH: {why}", target.node),
        "try again; see whether it is up: plasma status",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_is_a_line_of_known_hosts() {
        let mut target = Target {
            node: "node01".into(),
            address: ([127, 0, 0, 1], 22).into(),
            user: "root".into(),
            host_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA comment".into(),
            is_rescue: false,
            identity: None,
        };
        let (kind, key) = key_of(&target).unwrap();
        assert_eq!((kind.as_str(), &key[4..15]), ("ssh-ed25519", b"ssh-ed25519".as_slice()));
        for bad in ["", "ssh-ed25519", "ssh-ed25519 !!"] {
            target.host_key = bad.into();
            assert_eq!(key_of(&target).unwrap_err().code, codes::NO_HOST_KEY, "{bad}");
        }
    }
}
