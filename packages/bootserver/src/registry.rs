//! Who may join, who has joined, and who forms: the promises of the boot server. Pure; the caller
//! writes a changed registry to disk before it acts on an answer.
//!
//! - A join token is spent once, by one key. The same node with the same key may come again while
//!   the token lives, so that a crash between answer and ledger is no dead end.
//! - The cluster is formed once, by the inventory's former, with one key. The same key may ask
//!   again and gets *form* again, since forming twice with one id is success. Every other key joins.
//! - What is ordered for a node, and which install of it is current, is in `installs`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use fault::{Fault, Kind};
use identity::{Minted, TokenBook, TokenInfo};
use inventory::{Inventory, Mac, Node, Role};
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::installs::Install;
use crate::wire::{Identify, Verdict};

/// Tokens, enrolled keys, and the grant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub(crate) tokens: TokenBook,
    pub(crate) nodes: BTreeMap<String, Member>,
    pub(crate) grant: Option<Grant>,
    #[serde(default)]
    pub(crate) installs: BTreeMap<String, Install>,
}

/// A node that has its certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// SHA-256 of its public key.
    pub public_key: String,
    /// In Unix milliseconds.
    pub enrolled: u64,
    /// The install that made it.
    #[serde(default)]
    pub install_id: Option<String>,
    /// Its SSH host key's public line.
    #[serde(default)]
    pub host_key: Option<String>,
}

/// The one grant to form the cluster, once it is spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// To whom.
    pub node: String,
    /// SHA-256 of its public key.
    pub public_key: String,
    /// In Unix milliseconds.
    pub at: u64,
}

impl Registry {
    /// Makes a token for a node of the inventory.
    pub fn mint(
        &mut self,
        inventory: &Inventory,
        node: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Minted, Fault> {
        inventory.node(node)?;
        Ok(self.tokens.mint(node, ttl, now)?)
    }

    /// Takes a token back.
    pub fn revoke(&mut self, id: &str) -> Result<(), Fault> {
        Ok(self.tokens.revoke(id)?)
    }

    /// All tokens, without their secrets.
    pub fn tokens(&self, now: SystemTime) -> Vec<TokenInfo> {
        self.tokens.list(now)
    }

    /// Spends a token: the node with this key is a member from now on. A new key takes the place
    /// of the old one, which the operator has wished by minting a token.
    pub fn enroll(
        &mut self,
        inventory: &Inventory,
        asked: &Enrolling<'_>,
        now: SystemTime,
    ) -> Result<(), Fault> {
        // the token first: nobody without one learns what the inventory says
        let spending = self.tokens.spend(asked.token, asked.node, asked.public_key, now)?;
        let node = inventory.node(asked.node)?;
        recognise(asked.node, node, asked.identify)?;
        let install_id = self.enrolling(asked, &spending.id)?;
        // spending and membership are written as one: whoever repeats it is a member still, or
        // was one before another key or another order took the place
        let holds = |member: &Member| {
            member.public_key == asked.public_key && member.install_id == install_id
        };
        if spending.again && !self.nodes.get(asked.node).is_some_and(holds) {
            return Err(old_key(asked.node, "this token was spent before that"));
        }
        let enrolled = self
            .nodes
            .get(asked.node)
            .filter(|known| known.public_key == asked.public_key && known.install_id == install_id)
            .map_or(unix_millis(now), |known| known.enrolled);
        let member = Member {
            public_key: asked.public_key.to_owned(),
            enrolled,
            install_id,
            host_key: asked.host_key.map(str::to_owned),
        };
        self.nodes.insert(asked.node.to_owned(), member);
        Ok(())
    }

    /// What is known of a node that has enrolled.
    pub fn member(&self, node: &str) -> Option<&Member> {
        self.nodes.get(node)
    }

    /// The grant, once it is spent.
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Refuses a certificate whose key has been replaced by a later enrolment.
    pub fn check_key(&self, node: &str, public_key: &str) -> Result<(), Fault> {
        match self.nodes.get(node) {
            Some(member) if member.public_key == public_key => Ok(()),
            _ => Err(old_key(node, "its certificate is of an earlier one")),
        }
    }

    /// Form or join? Only the first answer *form* changes the registry.
    pub fn form(
        &mut self,
        inventory: &Inventory,
        name: &str,
        public_key: &str,
        insist: Option<Verdict>,
        now: SystemTime,
    ) -> Result<Verdict, Fault> {
        let node = inventory.node(name)?;
        if !node.has(Role::Control) {
            return Err(Fault::new(
                codes::NO_VOTER,
                Kind::Precondition,
                format!("node {name:?} has not the role control, so it neither forms nor joins"),
                format!("add control to nodes.{name}.roles, or skip this step there"),
            ));
        }
        let is_former = inventory.cluster.former == name;
        let verdict = match &self.grant {
            Some(grant) if grant.node == name && grant.public_key == public_key => Verdict::Form,
            Some(_) => Verdict::Join,
            // a released grant: others may have joined since what the former is to forget
            None if is_former && !self.is_joined_by_others(name) => Verdict::Form,
            None => Verdict::Join,
        };
        if verdict == Verdict::Join {
            self.refuse_to_join(inventory, name, insist, is_former)?;
        }
        if verdict == Verdict::Form && self.grant.is_none() {
            if self.is_outdated(name) {
                return Err(Fault::new(
                    codes::OTHER_INSTALL,
                    Kind::Precondition,
                    format!("node {name:?} is to be installed anew, so it forms nothing before"),
                    format!("restart this machine, or take the order back: plasma node run {name}"),
                ));
            }
            self.grant = Some(Grant {
                node: name.to_owned(),
                public_key: public_key.to_owned(),
                at: unix_millis(now),
            });
        }
        Ok(verdict)
    }

    fn refuse_to_join(
        &self,
        inventory: &Inventory,
        name: &str,
        insist: Option<Verdict>,
        is_former: bool,
    ) -> Result<(), Fault> {
        let insists = insist == Some(Verdict::Form);
        if insists && !is_former && self.grant.is_none() {
            return Err(Fault::new(
                codes::NOT_FORMER,
                Kind::Denied,
                format!(
                    "node {name:?} may not form the cluster: that is {:?}",
                    inventory.cluster.former
                ),
                "join, or change cluster.former before anything is formed",
            ));
        }
        if insists {
            let to = self.grant.as_ref().map_or("another node", |g| g.node.as_str());
            return Err(Fault::new(
                codes::GRANT_SPENT,
                Kind::Denied,
                format!("the grant to form the cluster was given to {to:?} with another key"),
                "join the cluster that was formed",
            ));
        }
        if peers(inventory, name).is_empty() {
            return Err(Fault::new(
                codes::NOBODY_TO_JOIN,
                Kind::Precondition,
                format!(
                    "the cluster was formed by {name:?} with another key, and has no other member"
                ),
                format!(
                    "bring its state folder back or restore a snapshot; if nothing was ever \
                     formed: plasma node replace {name}"
                ),
            ));
        }
        Ok(())
    }
}

fn old_key(node: &str, why: &str) -> Fault {
    Fault::new(
        codes::OLD_KEY,
        Kind::Denied,
        format!("the key of node {node:?} is not the one that enrolled last: {why}"),
        format!("stop this process, or enrol it anew: plasma token new {node}"),
    )
}

/// A node that wants its certificates.
pub struct Enrolling<'a> {
    /// Its name in the inventory.
    pub node: &'a str,
    /// The join token.
    pub token: &'a str,
    /// SHA-256 of its public key.
    pub public_key: &'a str,
    /// What it saw of itself.
    pub identify: &'a Identify,
    /// Its SSH host key's public line.
    pub host_key: Option<&'a str>,
    /// The install that made it, if it says so.
    pub install_id: Option<&'a str>,
}

/// The peer URLs of all other control nodes.
pub(crate) fn peers(inventory: &Inventory, name: &str) -> Vec<String> {
    let others = inventory.with_role(Role::Control).filter(|(other, _)| *other != name);
    others.map(|(_, node)| node.peer_url()).collect()
}

/// Is the machine that calls the one that the inventory means? What the inventory leaves open is
/// not compared. The refusal goes to strangers: it repeats what they said, and never what the
/// inventory says.
pub(crate) fn recognise(name: &str, node: &Node, seen: &Identify) -> Result<(), Fault> {
    let refuse = |what: String, hint: String| {
        Err(Fault::new(codes::NOT_THIS_MACHINE, Kind::Denied, what, hint))
    };
    if node.process != seen.process {
        let (has, is) =
            if node.process { ("processes", "a machine") } else { ("a machine", "processes") };
        return refuse(
            format!("node {name:?} is {has} in the inventory, and {is} calls"),
            format!("set nodes.{name}.process as it is meant"),
        );
    }
    if let Some(serial) = &node.serial
        && seen.serial.as_deref().map(str::trim) != Some(serial)
    {
        let has = seen.serial.as_deref().map(|has| has.trim().chars().take(64).collect::<String>());
        let has = has.map_or("none".to_owned(), |has| format!("{has:?}"));
        return refuse(
            format!("node {name:?} has another serial in the inventory than the caller: {has}"),
            format!("if this is its machine, correct nodes.{name}.serial; if not, look who calls"),
        );
    }
    let macs: Vec<Mac> = seen.macs.iter().filter_map(|mac| Mac::parse(mac)).collect();
    let missing = node.macs.iter().filter(|mac| !macs.contains(mac)).count();
    if missing > 0 {
        return refuse(
            format!(
                "the caller lacks {missing} of the {} cards of node {name:?} in the inventory",
                node.macs.len()
            ),
            format!("if this is its machine, correct nodes.{name}.macs; if not, look who calls"),
        );
    }
    Ok(())
}

pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn three() -> Inventory {
        Inventory::parse(Inventory::built_in()).unwrap().on_loopback(3).unwrap()
    }

    fn enroll(registry: &mut Registry, node: &str, token: &str, key: &str) -> Result<(), Fault> {
        let identify = Identify { process: true, ..Identify::default() };
        let asked = Enrolling {
            node,
            token,
            public_key: key,
            identify: &identify,
            host_key: None,
            install_id: None,
        };
        registry.enroll(&three(), &asked, SystemTime::now())
    }

    #[test]
    fn a_new_key_replaces_the_old_one_and_only_with_a_token() {
        let (mut registry, now) = (Registry::default(), SystemTime::now());
        let first = registry.mint(&three(), "node01", HOUR, now).unwrap();
        enroll(&mut registry, "node01", &first.token, "k1").unwrap();
        enroll(&mut registry, "node01", &first.token, "k1").unwrap();
        enroll(&mut registry, "node01", &first.token, "k2").unwrap_err();
        registry.check_key("node01", "k1").unwrap();
        let second = registry.mint(&three(), "node01", HOUR, now).unwrap();
        enroll(&mut registry, "node01", &second.token, "k2").unwrap();
        assert_eq!(registry.check_key("node01", "k1").unwrap_err().code, codes::OLD_KEY);
        assert_eq!(registry.check_key("node02", "k1").unwrap_err().code, codes::OLD_KEY);
    }

    #[test]
    fn exactly_one_key_forms() {
        let (mut registry, now) = (Registry::default(), SystemTime::now());
        let mut ask = |node: &str, key: &str, insist| {
            registry.form(&three(), node, key, insist, now).map_err(|fault| fault.code)
        };
        assert_eq!(ask("node02", "k2", None), Ok(Verdict::Join));
        assert_eq!(ask("node02", "k2", Some(Verdict::Form)), Err(codes::NOT_FORMER));
        assert_eq!(ask("node01", "k1", None), Ok(Verdict::Form));
        assert_eq!(ask("node01", "k1", Some(Verdict::Form)), Ok(Verdict::Form));
        assert_eq!(ask("node01", "other", None), Ok(Verdict::Join));
        assert_eq!(ask("node01", "other", Some(Verdict::Form)), Err(codes::GRANT_SPENT));
        assert_eq!(ask("node02", "k2", Some(Verdict::Form)), Err(codes::GRANT_SPENT));
        assert_eq!(ask("node02", "k1", None), Ok(Verdict::Join));
        assert_eq!(registry.grant().map(|g| g.node.as_str()), Some("node01"));
    }

    #[test]
    fn a_lone_node_that_lost_its_key_is_told_so() {
        let one = three().on_loopback(1).unwrap();
        let (mut registry, now) = (Registry::default(), SystemTime::now());
        registry.form(&one, "node01", "k1", None, now).unwrap();
        let fault = registry.form(&one, "node01", "k2", None, now).unwrap_err();
        assert_eq!(fault.code, codes::NOBODY_TO_JOIN);
    }

    #[test]
    fn only_control_nodes_form_or_join() {
        let mut inventory = three();
        inventory.nodes.get_mut("node03").unwrap().roles = vec![Role::Compute];
        let mut registry = Registry::default();
        let fault = registry.form(&inventory, "node03", "k", None, SystemTime::now()).unwrap_err();
        assert_eq!(fault.code, codes::NO_VOTER);
    }

    #[test]
    fn a_machine_is_recognised_by_serial_and_cards() {
        let inventory = Inventory::parse(Inventory::built_in()).unwrap();
        let node = inventory.node("node01").unwrap();
        let real = Identify {
            serial: Some("PLASMA-NODE01".into()),
            macs: vec!["52-54-00-20-00-11".into(), "52:54:00:99:00:01".into()],
            process: false,
        };
        recognise("node01", node, &real).unwrap();
        let wrong: [fn(&mut Identify); 5] = [
            |seen| seen.serial = None,
            |seen| seen.serial = Some("PLASMA-NODE02".into()),
            |seen| seen.macs.clear(),
            |seen| seen.macs = vec!["52:54:00:20:00:12".into(), "nonsense".into()],
            |seen| seen.process = true,
        ];
        for spoil in wrong {
            let mut seen = real.clone();
            spoil(&mut seen);
            let fault = recognise("node01", node, &seen).unwrap_err();
            assert_eq!(fault.code, codes::NOT_THIS_MACHINE, "{seen:?}");
        }
    }
}
