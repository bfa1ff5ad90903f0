//! The members as gossip sees them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::SystemTime;

use api::chainfire as pb;

/// What gossip says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Nothing was heard of it since this process started.
    Unknown,
    /// It answers.
    Alive,
    /// It did not answer lately, and has not been given up yet.
    Suspect,
    /// It does not answer, or has left.
    Down,
}

impl NodeState {
    /// All of them, as metrics show them.
    pub(super) const ALL: [(NodeState, &'static str); 4] = [
        (NodeState::Unknown, "unknown"),
        (NodeState::Alive, "alive"),
        (NodeState::Suspect, "suspect"),
        (NodeState::Down, "down"),
    ];
}

/// One member of the Raft membership, as gossip sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub member_id: u64,
    /// Its name, by the Raft membership.
    pub name: String,
    /// Whether it answers.
    pub state: NodeState,
    /// Since when, by this process's wall clock: for people.
    pub since: SystemTime,
    /// What it tells of itself; none until it was heard once.
    pub about: Option<About>,
}

/// What a member tells of itself. The same as long as its process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The version of its program.
    pub version: String,
    /// Its roles, as set.
    pub roles: Vec<String>,
    /// Labels, as set.
    pub labels: BTreeMap<String, String>,
    /// Where it gossips.
    pub address: SocketAddr,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where members reach it.
    pub peer_urls: Vec<String>,
    /// Grows with every start of its process.
    pub run: u64,
}

/// All members as gossip sees them at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nodes {
    /// In the order of their ids.
    pub nodes: Vec<Node>,
}

impl Nodes {
    /// A member by its id.
    pub fn get(&self, member_id: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| node.member_id == member_id)
    }

    /// How many are in a state.
    pub fn count(&self, state: NodeState) -> usize {
        self.nodes.iter().filter(|node| node.state == state).count()
    }

    /// What is here now: a node keeps the time of its state while the state stays.
    pub(super) fn next(
        &self,
        members: impl Iterator<Item = (u64, String)>,
        state: impl Fn(u64) -> NodeState,
        about: &HashMap<u64, About>,
        now: SystemTime,
    ) -> Nodes {
        let mut nodes: Vec<Node> = members
            .map(|(member_id, name)| {
                let state = state(member_id);
                let before = self.get(member_id).filter(|before| before.state == state);
                let since = before.map_or(now, |before| before.since);
                Node { member_id, name, state, since, about: about.get(&member_id).cloned() }
            })
            .collect();
        nodes.sort_by_key(|node| node.member_id);
        Nodes { nodes }
    }

    /// What is different from `before`: nodes that changed or are new, and ids that are gone.
    pub(crate) fn since(&self, before: &Nodes) -> (Vec<Node>, Vec<u64>) {
        let changed = |node: &&Node| before.get(node.member_id) != Some(node);
        let gone = |node: &&Node| self.get(node.member_id).is_none();
        (
            self.nodes.iter().filter(changed).cloned().collect(),
            before.nodes.iter().filter(gone).map(|node| node.member_id).collect(),
        )
    }
}

impl From<&Node> for pb::Node {
    fn from(node: &Node) -> pb::Node {
        let state = match node.state {
            NodeState::Unknown => pb::NodeState::Unknown,
            NodeState::Alive => pb::NodeState::Alive,
            NodeState::Suspect => pb::NodeState::Suspect,
            NodeState::Down => pb::NodeState::Down,
        };
        let since = node.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        pb::Node {
            member_id: node.member_id,
            name: node.name.clone(),
            state: state as i32,
            since_unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            about: node.about.as_ref().map(pb::About::from),
        }
    }
}

impl From<&About> for pb::About {
    fn from(about: &About) -> pb::About {
        pb::About {
            version: about.version.clone(),
            roles: about.roles.clone(),
            labels: about.labels.clone().into_iter().collect(),
            gossip_address: about.address.to_string(),
            client_urls: about.client_urls.clone(),
            peer_urls: about.peer_urls.clone(),
            run: about.run,
        }
    }
}

/// The most of anything that one member may tell of itself.
const PARTS_MAX: usize = 32;
/// The longest role, label or value.
const TEXT_MAX: usize = 128;

/// What a member said of itself, if it is within bounds.
pub(super) fn about(said: pb::About) -> Option<About> {
    let fits = |text: &String| text.len() <= TEXT_MAX;
    let urls_fit = |urls: &[String]| urls.len() <= PARTS_MAX && urls.iter().all(|u| u.len() <= 256);
    let labels_fit = said.labels.len() <= PARTS_MAX
        && said.labels.iter().all(|(key, value)| fits(key) && fits(value));
    let roles_fit = said.roles.len() <= PARTS_MAX && said.roles.iter().all(fits);
    if !labels_fit || !roles_fit || !fits(&said.version) {
        return None;
    }
    if !urls_fit(&said.client_urls) || !urls_fit(&said.peer_urls) {
        return None;
    }
    Some(About {
        version: said.version,
        roles: said.roles,
        labels: said.labels.into_iter().collect(),
        address: said.gossip_address.parse().ok()?,
        client_urls: said.client_urls,
        peer_urls: said.peer_urls,
        run: said.run,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_state_keeps_its_time_and_a_difference_says_all() {
        let (about, names) = (HashMap::new(), |ids: &[u64]| {
            ids.iter().map(|id| (*id, format!("node{id}"))).collect::<Vec<_>>()
        });
        let alive = |_| NodeState::Alive;
        let first = Nodes::default().next(names(&[2, 1]).into_iter(), alive, &about, at(1));
        assert_eq!(first.nodes.iter().map(|n| n.member_id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(first.since(&Nodes::default()), (first.nodes.clone(), vec![]));
        let state = |id| if id == 2 { NodeState::Down } else { NodeState::Alive };
        let second = first.next(names(&[1, 2, 3]).into_iter(), state, &about, at(2));
        assert_eq!(second.get(1), first.get(1));
        assert_eq!(second.get(2).unwrap().since, at(2));
        let (changed, gone) = second.since(&first);
        assert_eq!(changed.iter().map(|n| n.member_id).collect::<Vec<_>>(), [2, 3]);
        assert!(gone.is_empty());
        let third = second.next(names(&[1, 3]).into_iter(), alive, &about, at(3));
        assert_eq!(third.since(&second), (vec![], vec![2]));
        assert_eq!(third.count(NodeState::Alive), 2);
    }

    #[test]
    fn what_a_member_says_of_itself_is_bounded() {
        let good = pb::About { gossip_address: "10.0.0.1:2381".into(), ..Default::default() };
        assert!(about(good.clone()).is_some());
        let long = "x".repeat(TEXT_MAX + 1);
        let bad = [
            pb::About { gossip_address: "nowhere".into(), ..good.clone() },
            pb::About { version: long.clone(), ..good.clone() },
            pb::About { roles: vec![long.clone()], ..good.clone() },
            pb::About { roles: vec!["r".into(); PARTS_MAX + 1], ..good.clone() },
            pb::About { labels: [("a".into(), long)].into(), ..good.clone() },
            pb::About { peer_urls: vec!["u".repeat(257)], ..good },
        ];
        for said in bad {
            assert_eq!(about(said.clone()), None, "{said:?}");
        }
    }
}
