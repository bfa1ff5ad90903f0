//! What is ordered for each node: the registry's half for netboot. Pure.
//!
//! - Each node has one current install, named by an id. It may erase the node's disk once; the
//!   agent writes the id on the disk first. An order to install makes a new id, and only that.
//! - A node is installed when it has enrolled under the current id.
//! - A claim gives a join token to the first key that asks, and to no other while it lives.
//! - The grant to form is released by a new install of the former, and only while nobody else can
//!   be a member: nobody else was ever blessed, or has joined since its own last order.

use std::time::{Duration, SystemTime};

use fault::{Fault, Kind};
use identity::Minted;
use inventory::Inventory;
use serde::{Deserialize, Serialize};

use crate::boot::Moment;
use crate::codes;
use crate::registry::{Enrolling, Member, Registry, recognise, unix_millis};
use crate::wire::{ClaimRequest, NodeOrder, Progress};

/// A claim whose key was never heard of again holds the node's place for so long.
const CLAIM_HOLDS: Duration = Duration::from_secs(15 * 60);

/// A node's current install, and what else is ordered for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Install {
    /// A UUIDv7.
    pub install_id: String,
    /// By which order it came; `None` at first.
    #[serde(default)]
    pub ordered: Option<NodeOrder>,
    /// The rescue system is ordered.
    #[serde(default)]
    pub rescue: Option<Rescue>,
    /// Who has claimed the node for this install.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// An agent was told to install: the disk may be erased already.
    #[serde(default)]
    pub begun: bool,
    /// It reported, with its certificate, to have joined.
    #[serde(default)]
    pub joined: bool,
    /// It was blessed, at any time.
    #[serde(default)]
    pub blessed: bool,
}

/// A rescue. One that is not sticky is over when the agent of a rescue system has called, so that
/// the boot after that is normal again. Whoever fetches the script changes nothing: scripts are for
/// everybody to read, and a boot loader may ask many times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rescue {
    /// Until the order `run`, instead of one boot.
    pub sticky: bool,
}

/// A claim.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claim {
    /// SHA-256 of the key that claimed.
    pub public_key: String,
    /// In Unix milliseconds.
    pub at: u64,
    /// The token that it got.
    pub token: String,
}

impl Install {
    fn new(ordered: Option<NodeOrder>, before: Option<&str>) -> Install {
        Install {
            install_id: next_id(before),
            ordered,
            rescue: None,
            claim: None,
            begun: false,
            joined: false,
            blessed: false,
        }
    }
}

/// An id that is newer than the one before, whatever the clock says: a disk refuses older orders.
fn next_id(before: Option<&str>) -> String {
    let now = uuid::Uuid::now_v7();
    let before = before.and_then(|id| uuid::Uuid::parse_str(id).ok());
    let (seconds, nanos) = match before.and_then(|id| id.get_timestamp()) {
        Some(time) if before >= Some(now) => time.to_unix(),
        _ => return now.to_string(),
    };
    const MILLI: u32 = 1_000_000;
    let (seconds, nanos) =
        if nanos + MILLI < 1000 * MILLI { (seconds, nanos + MILLI) } else { (seconds + 1, 0) };
    let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos);
    uuid::Uuid::new_v7(time).to_string()
}

impl Registry {
    /// Makes an install for each node that has none; true if there was one.
    ///
    /// A node that enrolled before there were installs counts as installed, and as blessed if a
    /// cluster was formed: nothing may be erased or formed again because a file is old.
    pub(crate) fn ensure_installs(&mut self, inventory: &Inventory) -> bool {
        let mut made = false;
        for name in inventory.nodes.keys() {
            if self.installs.contains_key(name) {
                continue;
            }
            let mut install = Install::new(None, None);
            if let Some(member) = self.nodes.get_mut(name) {
                member.install_id = Some(install.install_id.clone());
                install.joined = self.grant.is_some();
                install.blessed = self.grant.is_some();
            }
            self.installs.insert(name.clone(), install);
            made = true;
        }
        made
    }

    /// The node's current install; empty for a node that is none.
    pub fn install_id(&self, node: &str) -> &str {
        self.installs.get(node).map_or("", |install| &install.install_id)
    }

    /// Whether the node has enrolled under its current install.
    pub fn is_installed(&self, node: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|member| member.install_id.as_deref() == Some(self.install_id(node)))
    }

    /// Whether the rescue system is what this boot is for. An agent knows that itself: a system
    /// that runs from its disk goes on, and a rescue system stays one when its order is over.
    pub(crate) fn rescue(&self, node: &str, moment: Moment) -> bool {
        match moment {
            Moment::Boot => self.installs.get(node).is_some_and(|install| install.rescue.is_some()),
            Moment::Agent { rescue } => rescue,
        }
    }

    /// Why the node installs, for people.
    pub(crate) fn why_install(&self, node: &str) -> String {
        match self.installs.get(node).and_then(|install| install.ordered) {
            Some(NodeOrder::Replace) => "the operator ordered it for another machine".to_owned(),
            Some(_) => "the operator ordered to install it again".to_owned(),
            None => "it has not enrolled yet".to_owned(),
        }
    }

    /// The agent of a rescue system called; true if the registry changed.
    pub(crate) fn met_rescue(&mut self, node: &str) -> bool {
        let Some(install) = self.installs.get_mut(node) else { return false };
        install.rescue.take_if(|rescue| !rescue.sticky).is_some()
    }

    /// An agent is about to be told to install; true if the registry changed.
    pub(crate) fn begin_install(&mut self, node: &str) -> bool {
        let install = self.installs.get_mut(node);
        install.is_some_and(|install| !std::mem::replace(&mut install.begun, true))
    }

    /// What an operator orders.
    pub(crate) fn order(
        &mut self,
        inventory: &Inventory,
        node: &str,
        order: NodeOrder,
        sticky: bool,
    ) -> Result<(), Fault> {
        inventory.node(node)?;
        match order {
            NodeOrder::Install | NodeOrder::Replace => {
                if order == NodeOrder::Replace {
                    self.nodes.remove(node);
                }
                let known = self.installs.get(node);
                if let Some(claim) = known.and_then(|install| install.claim.as_ref()) {
                    // what an earlier machine was given opens nothing for this order
                    let _ = self.tokens.revoke(&claim.token);
                }
                let blessed = known.is_some_and(|install| install.blessed);
                let joined = blessed && known.is_some_and(|install| install.joined);
                let id = known.map(|install| install.install_id.as_str());
                let fresh = Install { blessed, joined, ..Install::new(Some(order), id) };
                self.installs.insert(node.to_owned(), fresh);
                self.release_grant(node);
            }
            NodeOrder::Rescue => {
                if let Some(install) = self.installs.get_mut(node) {
                    install.rescue = Some(Rescue { sticky });
                }
            }
            NodeOrder::Run => self.take_back(node)?,
        }
        Ok(())
    }

    /// The former begins anew, and nobody holds anything of what it had formed.
    fn release_grant(&mut self, node: &str) {
        let held = self.grant.as_ref().is_some_and(|grant| grant.node == node);
        if held && !self.is_joined_by_others(node) {
            self.grant = None;
        }
    }

    /// Whether another node may be a member of what this one formed: then nobody forms again.
    pub(crate) fn is_joined_by_others(&self, node: &str) -> bool {
        self.installs.iter().any(|(name, other)| name != node && (other.joined || other.blessed))
    }

    /// A rescue first; then an install that nobody has begun to enrol.
    fn take_back(&mut self, node: &str) -> Result<(), Fault> {
        let refuse = |what: String, hint: &str| {
            Err(Fault::new(codes::BAD_ORDER, Kind::Precondition, what, hint))
        };
        let Some(install) = self.installs.get_mut(node) else { return Ok(()) };
        if install.rescue.take().is_some() {
            return Ok(());
        }
        let Some(before) = self.nodes.get(node).and_then(|member| member.install_id.clone()) else {
            return refuse(
                format!("node {node:?} has nothing installed that it could run"),
                "power it on to install it",
            );
        };
        if install.install_id == before {
            return Ok(());
        }
        if install.begun || install.claim.is_some() {
            return refuse(
                format!("the install of node {node:?} has begun"),
                "let it end; its disk may be erased already",
            );
        }
        install.install_id = before;
        install.ordered = None;
        Ok(())
    }

    /// A token for the machine that is to be installed. The caller has decided that it is.
    pub(crate) fn claim(
        &mut self,
        inventory: &Inventory,
        request: &ClaimRequest,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Minted, Fault> {
        let name = request.node.as_str();
        recognise(name, inventory.node(name)?, &request.identify)?;
        self.check_install(name, Some(&request.install_id))?;
        let held = self.installs.get(name).and_then(|install| install.claim.clone());
        if let Some(claim) = &held {
            let age = unix_millis(now).saturating_sub(claim.at);
            let holds = u64::try_from(CLAIM_HOLDS.as_millis()).unwrap_or(u64::MAX);
            if claim.public_key != request.public_key && age < holds {
                return Err(Fault::new(
                    codes::CLAIMED,
                    Kind::Denied,
                    format!("node {name:?} was claimed by another key {} s ago", age / 1000),
                    format!(
                        "another machine may be posing as it; order again (plasma node wipe \
                         {name}), or wait 15 minutes"
                    ),
                ));
            }
            // nobody needs the earlier one
            self.tokens.forget(&claim.token);
        }
        let minted = self.tokens.mint(name, ttl, now)?;
        if let Some(install) = self.installs.get_mut(name) {
            install.claim = Some(Claim {
                public_key: request.public_key.clone(),
                at: unix_millis(now),
                token: minted.id.clone(),
            });
        }
        Ok(minted)
    }

    /// Under which install a node enrols. A token that was claimed is for the key that claimed.
    pub(crate) fn enrolling(
        &self,
        asked: &Enrolling<'_>,
        token: &str,
    ) -> Result<Option<String>, Fault> {
        self.check_install(asked.node, asked.install_id)?;
        let install = self.installs.get(asked.node);
        let claim = install.and_then(|install| install.claim.as_ref());
        if claim.is_some_and(|c| c.token == token && c.public_key != asked.public_key) {
            return Err(Fault::new(
                codes::CLAIMED,
                Kind::Denied,
                format!("the token of node {:?} was claimed by another key", asked.node),
                "claim one with the key that enrols",
            ));
        }
        Ok(install.map(|install| install.install_id.clone()))
    }

    fn check_install(&self, node: &str, install_id: Option<&str>) -> Result<(), Fault> {
        match install_id {
            Some(id) if id != self.install_id(node) => Err(Fault::new(
                codes::OTHER_INSTALL,
                Kind::Precondition,
                format!("node {node:?} is to be installed anew, or this is another's install"),
                "restart this machine: it is told what to do",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the holder of this key may claim again although the node counts as installed: the
    /// answer to its enrolment was lost.
    pub(crate) fn is_enrolled_with(&self, node: &str, public_key: &str) -> bool {
        let same = |member: &Member| member.public_key == public_key;
        self.is_installed(node) && self.nodes.get(node).is_some_and(same)
    }

    /// Whether a verified report says something that [`Registry::note_progress`] would note.
    pub(crate) fn is_news(&self, progress: &Progress) -> bool {
        let (joined, blessed) = says(progress);
        self.installs
            .get(&progress.node)
            .is_some_and(|install| (joined && !install.joined) || (blessed && !install.blessed))
    }

    /// Notes that a node has joined, and that it was blessed; true if the registry changed.
    pub(crate) fn note_progress(&mut self, progress: &Progress) -> bool {
        let news = self.is_news(progress);
        let (joined, blessed) = says(progress);
        if let Some(install) = self.installs.get_mut(&progress.node) {
            install.joined |= joined;
            install.blessed |= blessed;
        }
        news
    }

    /// Whether the node enrolled, and was ordered to be installed anew since.
    pub(crate) fn is_outdated(&self, node: &str) -> bool {
        self.installs.get(node).is_some_and(|install| install.ordered.is_some())
            && self.nodes.contains_key(node)
            && !self.is_installed(node)
    }
}

/// Joined, and blessed.
fn says(progress: &Progress) -> (bool, bool) {
    let done = |step: &str| {
        progress.phases.contains_key(step) || (progress.step == step && progress.state == "done")
    };
    let blessed = done("bless");
    (blessed || done("join"), blessed)
}

#[cfg(test)]
#[path = "installs_tests.rs"]
mod tests;
