//! Gossip of real processes: who is down is told, who is back is up, and a network that is cut only
//! in part takes nobody down. The network between them is a proxy of the test.

use std::collections::HashMap;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chainfire_client::{Client, Error, Node, NodeState};
use testkit::net::http_get;
use testkit::{Cluster, Options, eventually};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const GOSSIP: u16 = 2381;
const PROXY: u16 = 2481;
const PATIENCE: Duration = Duration::from_secs(120);

/// Carries the members' packets, but for those between cut pairs. Who sends is known by the address
/// of its socket; that the receiver sees the proxy's does not matter to it.
#[derive(Default)]
struct Network {
    cuts: Arc<Mutex<HashSet<(usize, usize)>>>,
    proxies: JoinSet<()>,
}

impl Network {
    async fn open(&mut self, to: usize, members: &[IpAddr]) -> Result<()> {
        let socket = UdpSocket::bind((members[to], PROXY)).await?;
        let places: HashMap<IpAddr, usize> =
            members.iter().enumerate().map(|(place, ip)| (*ip, place)).collect();
        let (target, cuts) = (SocketAddr::new(members[to], GOSSIP), self.cuts.clone());
        self.proxies.spawn(async move {
            let mut packet = [0; 2048];
            loop {
                let Ok((length, sender)) = socket.recv_from(&mut packet).await else { continue };
                let from = places.get(&sender.ip()).copied();
                let cut = from.is_some_and(|from| {
                    cuts.lock().unwrap_or_else(PoisonError::into_inner).contains(&(from, to))
                });
                if !cut {
                    let _ = socket.send_to(&packet[..length], target).await;
                }
            }
        });
        Ok(())
    }

    fn cut(&self, one: usize, other: usize) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.extend([(one, other), (other, one)]);
    }

    fn heal(&self) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Three members that gossip through the test's network.
async fn gossiping(probe_ms: u64) -> Result<(Cluster, Network)> {
    let mut cluster = Cluster::prepare(Options::default())?;
    let mut network = Network::default();
    for _ in 0..3 {
        let place = cluster.configure().await?;
        let ip = cluster.listeners(place)[0].ip();
        cluster.set(place, &format!("gossip.listen={ip}:{GOSSIP}"));
        cluster.set(place, &format!("gossip.advertise={ip}:{PROXY}"));
        cluster.set(place, &format!("gossip.probe_ms={probe_ms}"));
        cluster.set(place, &format!("gossip.labels.rack=r{place}"));
        cluster.set(place, "gossip.roles=[\"control\", \"data\"]");
    }
    let members: Vec<IpAddr> = (0..3).map(|place| cluster.listeners(place)[0].ip()).collect();
    for place in 0..3 {
        network.open(place, &members).await?;
    }
    for place in 0..3 {
        cluster.spawn(place)?;
        cluster.ready(place).await?;
    }
    cluster.all_vote().await?;
    Ok((cluster, network))
}

/// Waits until each of the members `by` sees all members in these states. It is told, and does not
/// ask again and again: the members have little time to spare.
async fn seen(cluster: &Cluster, by: &[usize], states: [NodeState; 3]) -> Result<Vec<Node>> {
    let mut last = Vec::new();
    for observer in by {
        let mut watcher = cluster.client_of(*observer)?.watch_nodes();
        let as_told = async {
            loop {
                last = watcher.next().await?;
                let is_so = states.into_iter().enumerate().all(|(place, state)| {
                    let name = cluster.name(place);
                    last.iter().any(|node| node.name == name && node.state == state)
                });
                if is_so {
                    return Ok::<_, Error>(());
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, as_told).await;
        ended.with_context(|| format!("{observer} does not see {states:?}: {last:?}"))??;
    }
    Ok(last)
}

async fn metric(cluster: &Cluster, place: usize, line: &str) -> Result<f64> {
    let ops = cluster.listeners(place)[2];
    let (_, text) = http_get(ops, "/metrics", Duration::from_secs(5)).await?;
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    Ok(found.with_context(|| format!("no {line}"))?.trim().parse()?)
}

use NodeState::{Alive, Down};

/// Members tell who is down and who is back, what they are, and drop what is not theirs.
#[tokio::test]
async fn gap_gossip() -> Result<()> {
    let (mut cluster, _network) = gossiping(1000).await?;
    let nodes = seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;
    for node in &nodes {
        let place = (0..3).find(|place| cluster.name(*place) == node.name).context("whose?")?;
        let about = eventually("what a member says of itself", PATIENCE, || async {
            let nodes = cluster.client_of(0)?.nodes().await?;
            let now = nodes.into_iter().find(|now| now.member == node.member).context("gone")?;
            now.about.context("nothing yet")
        })
        .await?;
        ensure!(about.labels.get("rack") == Some(&format!("r{place}")), "{about:?}");
        ensure!(about.roles == ["control", "data"], "{about:?}");
        ensure!(about.client_urls == [cluster.endpoint(place)], "{about:?}");
        ensure!(about.peer_urls == [cluster.peer_url(place)], "{about:?}");
        ensure!(about.gossip_address.ends_with(":2481"), "{about:?}");
        ensure!(!about.version.is_empty() && about.run > 0, "{about:?}");
    }

    // a watcher is told all, then what changes
    let client = cluster.client_of(0)?;
    let mut watcher = client.watch_nodes();
    ensure!(watcher.next().await?.len() == 3);

    // killed: the others tell
    let run = nodes.iter().find(|n| n.name == cluster.name(2)).and_then(|n| n.about.clone());
    cluster.kill(2);
    seen(&cluster, &[0, 1], [Alive, Alive, Down]).await?;
    let name = cluster.name(2).to_owned();
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let nodes = watcher.next().await?;
            if nodes.iter().any(|node| node.name == name && node.state == Down) {
                return Ok::<_, Error>(nodes.len());
            }
        }
    });
    ensure!(told.await?? == 3);
    ensure!(metric(&cluster, 0, "chainfire_gossip_nodes{state=\"down\"}").await? == 1.0);

    // back: another run of the same member
    cluster.spawn(2)?;
    cluster.ready(2).await?;
    let nodes = seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;
    let again = nodes.iter().find(|n| n.name == name).and_then(|n| n.about.clone());
    ensure!(again.map(|about| about.run) > run.map(|about| about.run));

    // one that stops in order says so, and is down at once: nobody suspects it first
    cluster.terminate(1).await?;
    seen(&cluster, &[0, 2], [Alive, Down, Alive]).await?;

    // packets of strangers are dropped and counted, and change nothing
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    let target = SocketAddr::new(cluster.listeners(0)[0].ip(), GOSSIP);
    // as from a member, but of another life of it, and with its key unknown
    let known = nodes.iter().find(|node| node.name == name).context("no such node")?.member;
    let mut forged = vec![1; 80];
    forged[1..9].copy_from_slice(&known.to_be_bytes());
    let sent = [vec![0; 10], vec![9; 100], vec![1; 60], vec![7; 1500], forged];
    eventually("strangers are refused", PATIENCE, || async {
        for packet in &sent {
            stranger.send_to(packet, target).await?;
        }
        for reason in ["size", "version", "sender", "session"] {
            let line = format!("chainfire_gossip_packets_refused_total{{reason=\"{reason}\"}}");
            ensure!(metric(&cluster, 0, &line).await? >= 1.0, "none for {reason}");
        }
        Ok(())
    })
    .await?;
    seen(&cluster, &[0, 2], [Alive, Down, Alive]).await?;

    // it informs and never decides: Raft goes on without it
    client.put("after", "all").await?;
    Ok(())
}

/// Cut off by all: down on both sides, and back when healed. Cut off by one: the third speaks for it.
#[tokio::test]
async fn gossip_survives_partitions_of_its_network() -> Result<()> {
    let (cluster, network) = gossiping(1000).await?;
    seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;

    network.cut(0, 2);
    network.cut(1, 2);
    seen(&cluster, &[0, 1], [Alive, Alive, Down]).await?;
    seen(&cluster, &[2], [Down, Down, Alive]).await?;
    // Raft's network is whole, so gossip's verdict changes nothing
    cluster.client()?.put("k", "v").await?;
    network.heal();
    seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;

    // A watcher of member 0 must not be told that 2 is down while 1 can reach both. Time has to
    // pass for that; how much more only makes the test sharper.
    network.cut(0, 2);
    let client = cluster.client_of(0)?;
    let mut watcher = client.watch_nodes();
    let name = cluster.name(2).to_owned();
    let down = async {
        loop {
            let nodes = watcher.next().await?;
            if nodes.iter().any(|node| node.name == name && node.state == Down) {
                return Ok::<_, Error>(());
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(8), down).await;
    ensure!(told.is_err(), "one cut link took a member down: {told:?}");
    network.heal();
    seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;
    Ok(())
}

/// A process that is paused is down, and up again by itself.
#[tokio::test]
async fn a_paused_member_is_down_and_comes_back() -> Result<()> {
    let (mut cluster, _network) = gossiping(1000).await?;
    seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;
    cluster.process(2)?.pause()?;
    seen(&cluster, &[0, 1], [Alive, Alive, Down]).await?;
    cluster.process(2)?.resume()?;
    seen(&cluster, &[0, 1, 2], [Alive; 3]).await?;
    Ok(())
}

/// Where gossip is off it says so, with a hint.
#[tokio::test]
async fn without_gossip_it_says_so() -> Result<()> {
    let cluster = Cluster::start_with(Options { members: 1, ..Options::default() }).await?;
    let client: Client = cluster.client()?;
    let error = client.nodes().await.err().context("nodes without gossip")?;
    ensure!(error.code().0 == "CF-1016", "{error}");
    ensure!(error.to_string().contains("[gossip]"), "{error}");
    let error = client.watch_nodes().next().await.err().context("a watch without gossip")?;
    ensure!(error.code().0 == "CF-1016", "{error}");
    Ok(())
}
