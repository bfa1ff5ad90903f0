//! Channels to other members: for Raft, and for calls that the leader must answer.

use std::collections::HashMap;

use consensus::{Dialer, NodeId, NodeInfo};
use fault::{Fault, Kind};
use parking_lot::Mutex;
use rpc::{Peer, Tls};
use tonic::transport::Channel;

use crate::codes;

/// The name of this service in certificates.
pub(crate) const SERVICE: &str = "chainfire";

/// Which way calls to a URL go in a simulated world.
#[cfg(all(test, feature = "simulation"))]
type Net = Box<dyn Fn(&str) -> Option<Channel> + Send + Sync>;

pub(crate) struct Peers {
    tls: Option<Tls>,
    /// The way out of a simulated node.
    #[cfg(all(test, feature = "simulation"))]
    net: Option<Net>,
    /// The channel for calls, and the URL it was made for.
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl Peers {
    pub(crate) fn new(tls: Option<Tls>) -> Peers {
        Peers {
            tls,
            #[cfg(all(test, feature = "simulation"))]
            net: None,
            channels: Mutex::default(),
        }
    }

    #[cfg(all(test, feature = "simulation"))]
    pub(crate) fn through(net: impl Fn(&str) -> Option<Channel> + Send + Sync + 'static) -> Peers {
        Peers { net: Some(Box::new(net)), ..Peers::new(None) }
    }

    /// A channel to the member's peer listener; kept while its address stays.
    pub(crate) fn channel(&self, id: NodeId, info: &NodeInfo) -> Result<Channel, Fault> {
        let url = peer_url(info)?;
        let mut channels = self.channels.lock();
        if let Some((known, channel)) = channels.get(&id)
            && known == url
        {
            return Ok(channel.clone());
        }
        let channel = self.to_url(url)?;
        channels.insert(id, (url.clone(), channel.clone()));
        Ok(channel)
    }

    /// Forgets the channels to whoever is no member.
    pub(crate) fn keep(&self, is_member: impl Fn(NodeId) -> bool) {
        self.channels.lock().retain(|id, _| is_member(*id));
    }

    /// A channel to an address that was not yet heard of as a member's.
    pub(crate) fn to_url(&self, url: &str) -> Result<Channel, Fault> {
        #[cfg(all(test, feature = "simulation"))]
        if let Some(channel) = self.net.as_ref().and_then(|net| net(url)) {
            return Ok(channel);
        }
        rpc::channel(url, self.tls.as_ref())
    }

    /// The cluster that this member's certificate belongs to; none without TLS.
    pub(crate) fn cluster(&self) -> Option<String> {
        self.tls.as_ref()?.id().map(|id| id.cluster().to_owned())
    }

    /// Whether a caller is this service on some node of the cluster; answers the node, or nothing
    /// where members speak without TLS and nobody can be known.
    pub(crate) fn member<'a>(&self, peer: Option<&'a Peer>) -> Result<Option<&'a str>, Fault> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let nobody = || {
            let what = "the caller is not known";
            Fault::new(codes::DENIED, Kind::Unauthenticated, what, "call with a certificate")
        };
        let own = tls.id().ok_or_else(nobody)?;
        peer.ok_or_else(nobody)?.require_service(SERVICE, own.cluster()).map(Some)
    }
}

impl Dialer for Peers {
    fn dial(&self, _: NodeId, info: &NodeInfo) -> Result<Channel, Fault> {
        // Its own connection: a large answer must not delay heartbeats.
        self.to_url(peer_url(info)?)
    }
}

fn peer_url(info: &NodeInfo) -> Result<&String, Fault> {
    info.peer_urls.first().ok_or_else(|| {
        Fault::new(
            codes::NO_MEMBER,
            Kind::Unavailable,
            format!("member {:?} has no peer URL", info.name),
            "member update sets it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn channels_go_with_their_members() {
        let peers = Peers::new(None);
        for id in 1..=3 {
            let peer_urls = vec![format!("http://127.0.0.1:{id}")];
            peers.channel(id, &NodeInfo { peer_urls, ..Default::default() }).unwrap();
        }
        peers.keep(|id| id != 2);
        let mut left: Vec<NodeId> = peers.channels.lock().keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }
}
