//! Which members answer, by gossip, and what they tell of themselves. It informs and never
//! decides: a member that is down here may well lead, seen from elsewhere.

use crate::endpoints::Repeat;
use crate::verdict::{Verdict, describe, judge};
use crate::{Client, Error};
use api::chainfire as pb;
use api::chainfire::gossip_client::GossipClient;
use rpc::Backoff;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tonic::Streaming;

/// What gossip says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// The asked member has heard nothing of it since it started.
    Unknown,
    /// It answers.
    Alive,
    /// It did not answer lately, and has not been given up yet.
    Suspect,
    /// It does not answer, or has left.
    Down,
}

/// One member, as the asked one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// Whether it answers.
    pub state: NodeState,
    /// Since when, by the wall clock of the asked member.
    pub since: SystemTime,
    /// What it tells of itself; none until the asked member heard it once.
    pub about: Option<About>,
}

/// What a member tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The version of its program.
    pub version: String,
    /// Its roles, as set.
    pub roles: Vec<String>,
    /// Labels, as set.
    pub labels: BTreeMap<String, String>,
    /// Address and UDP port of its gossip.
    pub gossip_address: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where members reach it.
    pub peer_urls: Vec<String>,
    /// Grows with every start of its process.
    pub run: u64,
}

impl From<pb::Node> for Node {
    fn from(node: pb::Node) -> Node {
        let state = match node.state() {
            pb::NodeState::Unknown => NodeState::Unknown,
            pb::NodeState::Alive => NodeState::Alive,
            pb::NodeState::Suspect => NodeState::Suspect,
            pb::NodeState::Down => NodeState::Down,
        };
        let since = Duration::from_millis(u64::try_from(node.since_unix_ms).unwrap_or(0));
        Node {
            member: node.member_id,
            name: node.name,
            state,
            since: SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH),
            about: node.about.map(|about| About {
                version: about.version,
                roles: about.roles,
                labels: about.labels.into_iter().collect(),
                gossip_address: about.gossip_address,
                client_urls: about.client_urls,
                peer_urls: about.peer_urls,
                run: about.run,
            }),
        }
    }
}

impl Client {
    /// The members as one of them sees them, in the order of their ids.
    ///
    /// # Errors
    /// Refused where gossip is off.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                GossipClient::new(channel).nodes(pb::NodesRequest {}).await
            })
            .await?;
        Ok(answer.nodes.into_iter().map(Node::from).collect())
    }

    /// Follows the members as one of them sees them; another one, once that one fails.
    pub fn watch_nodes(&self) -> NodesWatcher {
        NodesWatcher { client: self.clone(), stream: None, nodes: BTreeMap::new() }
    }
}

/// Follows which members answer.
#[derive(Debug)]
pub struct NodesWatcher {
    client: Client,
    stream: Option<Streaming<pb::WatchNodesResponse>>,
    nodes: BTreeMap<u64, Node>,
}

impl NodesWatcher {
    /// All members, now and then each time that something has changed. What changed several times
    /// between two calls is told once.
    ///
    /// # Errors
    /// Refused where gossip is off; no endpoint answered until the deadline of a call. It can be
    /// called again after an error.
    pub async fn next(&mut self) -> Result<Vec<Node>, Error> {
        let deadline = Instant::now() + self.client.endpoints.options().deadline;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        // whoever is refused right after a login is refused
        let mut refused = false;
        loop {
            let (place, channel) = self.client.endpoints.current();
            if self.stream.is_none() {
                let carried = self.client.endpoints.ready(place).await;
                let mut client = GossipClient::new(channel);
                let patience = self.client.endpoints.options().read_attempt;
                let open = client.watch_nodes(pb::WatchNodesRequest {});
                let failed = match tokio::time::timeout(patience, open).await {
                    Ok(Ok(stream)) => {
                        self.stream = Some(stream.into_inner());
                        // the first answer of a stream has all
                        self.nodes.clear();
                        continue;
                    }
                    Ok(Err(status)) => {
                        let words = status.message();
                        let renewed = self.client.endpoints.renewed(words, carried, place).await;
                        match judge(&status) {
                            Verdict::Refused(error) if refused || !renewed => return Err(error),
                            Verdict::Refused(_) => {
                                refused = true;
                                continue;
                            }
                            _ => describe(&status),
                        }
                    }
                    Err(_) => "no answer in time".to_owned(),
                };
                self.client.endpoints.leave(place);
                let pause = backoff.next();
                if Instant::now() + pause >= deadline {
                    let endpoints = self.client.endpoints().join(",");
                    return Err(Error::Unreachable { endpoints, last: failed });
                }
                tokio::time::sleep(pause).await;
                continue;
            }
            let answer = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => continue,
            };
            match answer {
                Ok(Some(answer)) => {
                    for node in answer.changed {
                        self.nodes.insert(node.member_id, Node::from(node));
                    }
                    for gone in answer.gone {
                        self.nodes.remove(&gone);
                    }
                    return Ok(self.nodes.values().cloned().collect());
                }
                Ok(None) | Err(_) => {
                    self.stream = None;
                    self.client.endpoints.leave(place);
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }
}
