//! The one task that gossips: it owns the socket, foca, and all keys of others.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use consensus::{NodeInfo, Status};
use fault::{Fault, Kind};
use foca::{AccumulatingRuntime, Config, Foca, NoCustomBroadcast, PeriodicParams, State, Timer};
use prometheus::Registry;
use rand::rngs::StdRng;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::identity::{Identity, Wire};
use super::nodes::{About, NodeState, Nodes};
use super::seal::{MESSAGE_MAX, Openers, PACKET_MAX, Refused, Sealer};
use super::service::{Greeted, greet};
use super::stats::Stats;
use crate::codes;
use crate::server::Peers;
use crate::settings::GossipSettings;

/// How often members that are not heard are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// A member that cannot be greeted is tried again after so many looks at most.
const LOOKS_MAX: u32 = 15;
/// How long a member that is down is remembered by the protocol. It is in the list for as long as
/// it is a member, whatever the protocol remembers.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Greetings that wait to be taken in.
const GREETINGS: usize = 64;

/// What others in this process see of gossip.
#[derive(Clone)]
pub(crate) struct Gossip {
    /// The members, as gossip sees them.
    pub(crate) nodes: watch::Receiver<Arc<Nodes>>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) about: Arc<About>,
}

/// What gossip stands on.
pub(crate) struct Start<'a> {
    pub(crate) settings: &'a GossipSettings,
    pub(crate) me: u64,
    /// Larger than at every start before.
    pub(crate) run: u64,
    pub(crate) socket: UdpSocket,
    pub(crate) client_urls: Vec<String>,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) registry: &'a Registry,
}

impl Gossip {
    /// Takes the port.
    pub(crate) async fn bind(settings: &GossipSettings) -> Result<UdpSocket, Fault> {
        let taken = |error: std::io::Error| {
            Fault::new(
                codes::SETTINGS,
                Kind::Unavailable,
                format!("cannot listen for gossip on udp {}: {error}", settings.listen),
                "free the port, or set gossip.listen",
            )
        };
        UdpSocket::bind(settings.listen).await.map_err(taken)
    }

    /// What others see, and the task to run until `stop`.
    pub(crate) fn start(
        start: Start<'_>,
        stop: CancellationToken,
    ) -> Result<(Gossip, impl Future<Output = ()> + Send + 'static + use<>), Fault> {
        let broken =
            |what: String| Fault::new(codes::INTERNAL, Kind::Internal, what, "report this");
        let bound = start.socket.local_addr().map_err(|error| broken(error.to_string()))?;
        let address = advertised(start.settings, bound, &start.peer_urls)?;
        let about = Arc::new(About {
            version: telemetry::VERSION.to_owned(),
            roles: start.settings.roles.clone(),
            labels: start.settings.labels.clone(),
            address,
            client_urls: start.client_urls,
            peer_urls: start.peer_urls,
            run: start.run,
        });
        let sealer = Arc::new(Sealer::new(start.me).map_err(|error| broken(error.to_string()))?);
        let stats = Stats::new(start.registry).map_err(|error| broken(error.to_string()))?;
        let (publish, nodes) = watch::channel(Arc::default());
        let gossip = Gossip { nodes, sealer: sealer.clone(), about: about.clone() };
        let identity =
            Identity { member: start.me, run: start.run, comeback: 0, address: about.address };
        let period = Duration::from_millis(start.settings.probe_ms);
        let (greeted, greetings) = mpsc::channel(GREETINGS);
        let task = Task {
            me: start.me,
            socket: start.socket,
            foca: Foca::new(identity, config(period), rand::make_rng(), Wire),
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            numbered: 0,
            openers: Openers::new(start.me),
            known: HashMap::from([(start.me, (*about).clone())]),
            sealer,
            stats,
            status: start.status,
            peers: start.peers,
            publish,
            calls: HashMap::new(),
            members: HashMap::new(),
            greeted,
            greetings,
        };
        Ok((gossip, task.run(stop)))
    }
}

/// Where others send to: as set, else where it listens, else the host of the peer URL.
fn advertised(
    settings: &GossipSettings,
    bound: SocketAddr,
    peer_urls: &[String],
) -> Result<SocketAddr, Fault> {
    if let Some(address) = settings.advertise {
        return Ok(address);
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let host = |url: &String| {
        let uri = url.parse::<http::Uri>().ok()?;
        uri.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
    };
    match peer_urls.iter().find_map(host) {
        Some(ip) => Ok(SocketAddr::new(ip, bound.port())),
        None => Err(Fault::new(
            codes::SETTINGS,
            Kind::Invalid,
            "the address of gossip is not known: it listens on all, and the peer URL has a name",
            "set gossip.advertise to the address and port that others send to",
        )),
    }
}

/// SWIM's times, all from the probe period.
fn config(period: Duration) -> Config {
    let some = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    let every = |frequency, members| Some(PeriodicParams { frequency, num_members: some(members) });
    Config {
        probe_period: period,
        probe_rtt: period / 3,
        num_indirect_probes: some(3),
        max_transmissions: NonZeroU8::new(8).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: 3 * period,
        remove_down_after: Some(REMEMBERED),
        max_packet_size: some(MESSAGE_MAX),
        notify_down_members: true,
        periodic_announce: every(30 * period, 1),
        periodic_announce_to_down_members: every(10 * period, 2),
        periodic_gossip: every(period / 2, 3),
    }
}

/// A call to a member for its key.
#[derive(Default)]
struct Call {
    under_way: bool,
    /// Its key is of another life of it, as a packet said.
    outdated: bool,
    /// Looks until it is tried again.
    wait: u32,
    failed: u32,
}

struct Task {
    me: u64,
    socket: UdpSocket,
    foca: Foca<Identity, Wire, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    /// By time, then in the order in which they were asked for.
    timers: BinaryHeap<Reverse<Due>>,
    numbered: u64,
    openers: Openers,
    /// What members said of themselves.
    known: HashMap<u64, About>,
    sealer: Arc<Sealer>,
    stats: Stats,
    status: watch::Receiver<Status>,
    peers: Arc<Peers>,
    publish: watch::Sender<Arc<Nodes>>,
    calls: HashMap<u64, Call>,
    members: HashMap<u64, NodeInfo>,
    greeted: mpsc::Sender<(u64, Result<Greeted, Fault>)>,
    greetings: mpsc::Receiver<(u64, Result<Greeted, Fault>)>,
}

struct Due {
    at: Instant,
    number: u64,
    timer: Timer<Identity>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        let mut buffer = [0; PACKET_MAX + 1];
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow_members();
        loop {
            let due = self.timers.peek().map(|Reverse(due)| due.at);
            let timer = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => {
                    // an error is of a packet sent before, such as a port that nobody has
                    let packet = received.ok().and_then(|(length, _)| buffer.get_mut(..length));
                    // what anybody can send changes nothing, and is to cost next to nothing
                    if !packet.is_some_and(|packet| self.receive(packet)) {
                        continue;
                    }
                }
                () = timer => self.fire(),
                _ = looks.tick() => self.look(),
                Some((member, answer)) = self.greetings.recv() => self.meet(member, answer),
                changed = self.status.changed() => match changed {
                    Ok(()) => self.follow_members(),
                    Err(_) => break,
                },
            }
            self.settle().await;
        }
        // who leaves says so, and need not be suspected first
        let _ = self.foca.leave_cluster(&mut self.runtime);
        self.send().await;
    }

    /// Takes in a packet; whether it came from a member.
    fn receive(&mut self, packet: &mut [u8]) -> bool {
        match self.openers.open(packet) {
            Ok((sender, message)) => {
                // a member speaks for itself: the packet's key and its message name the same one
                let own = message.get(..8).is_some_and(|id| id == sender.to_be_bytes());
                if own && self.foca.handle_data(message, &mut self.runtime).is_ok() {
                    self.stats.received.inc();
                } else {
                    self.stats.refuse(Refused::Malformed);
                }
                true
            }
            Err((why, claimed)) => {
                self.stats.refuse(why);
                // anybody can claim that, so it only makes the next look ask
                if let (Refused::Session | Refused::Sender, Some(member)) = (why, claimed)
                    && let Some(call) = self.calls.get_mut(&member)
                {
                    call.outdated = true;
                }
                false
            }
        }
    }

    /// Runs the timers that are due. Late ones are run in the order that foca asks for.
    fn fire(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        while self.timers.peek().is_some_and(|Reverse(first)| first.at <= now) {
            due.extend(self.timers.pop().map(|Reverse(due)| due.timer));
        }
        due.sort();
        for timer in due {
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                // after a pause of this process, for one; foca goes on
                tracing::debug!(%error, "gossip was late");
            }
        }
    }

    /// Takes over who is a member.
    fn follow_members(&mut self) {
        let status = self.status.borrow_and_update().clone();
        let members: HashMap<u64, NodeInfo> =
            status.members.into_iter().map(|member| (member.id, member.info)).collect();
        if members == self.members {
            return;
        }
        self.members = members;
        let (members, me) = (&self.members, self.me);
        self.openers.keep(|id| members.contains_key(&id));
        self.sealer.keep(|id| members.contains_key(&id));
        self.known.retain(|id, _| *id == me || members.contains_key(id));
        self.calls.retain(|id, _| members.contains_key(id));
        for id in self.members.keys().filter(|id| **id != me) {
            self.calls.entry(*id).or_default();
        }
    }

    /// Asks for keys that are missing, and speaks to members that are not heard.
    fn look(&mut self) {
        let heard: HashSet<u64> = self.foca.iter_members().map(|m| m.id().member).collect();
        for (member, call) in &mut self.calls {
            let missing = self.openers.session(*member).is_none() || call.outdated;
            // one that is down may be back with another key
            let unheard = !heard.contains(member);
            if call.under_way || !(missing || unheard) {
                continue;
            }
            if call.wait > 0 && !call.outdated {
                call.wait -= 1;
                continue;
            }
            let Some(info) = self.members.get(member) else { continue };
            (call.under_way, call.outdated) = (true, false);
            let (peers, info) = (self.peers.clone(), info.clone());
            let (me, member, greeted) = (self.me, *member, self.greeted.clone());
            tokio::spawn(async move {
                let answer = greet(&peers, me, member, &info).await;
                let _ = greeted.send((member, answer)).await;
            });
        }
        self.announce(&heard);
    }

    /// Says to members that are known and not heard that this one is here.
    fn announce(&mut self, heard: &HashSet<u64>) {
        let unheard: Vec<Identity> = self
            .known
            .iter()
            .filter(|(member, _)| **member != self.me && !heard.contains(member))
            .map(|(member, about)| Identity {
                member: *member,
                run: about.run,
                comeback: 0,
                address: about.address,
            })
            .collect();
        for identity in unheard {
            let _ = self.foca.announce(identity, &mut self.runtime);
        }
    }

    /// Takes in what a member answered.
    fn meet(&mut self, member: u64, answer: Result<Greeted, Fault>) {
        let Some(call) = self.calls.get_mut(&member) else { return };
        call.under_way = false;
        match answer {
            Ok(Greeted { given, about }) => {
                (call.failed, call.wait) = (0, 4);
                self.openers.learn(member, &given);
                self.known.insert(member, about);
                let heard = self.foca.iter_members().map(|m| m.id().member).collect();
                self.announce(&heard);
            }
            Err(fault) => {
                call.failed = call.failed.saturating_add(1);
                call.wait = call.failed.min(LOOKS_MAX);
                tracing::debug!(member = format!("{member:x}"), %fault, "not greeted yet");
            }
        }
    }

    /// Carries out what foca asked for, and shows what is new.
    async fn settle(&mut self) {
        self.send().await;
        let now = Instant::now();
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.numbered += 1;
            self.timers.push(Reverse(Due { at: now + after, number: self.numbered, timer }));
        }
        while let Some(told) = self.runtime.to_notify() {
            tracing::debug!(?told, "gossip");
        }
        self.show();
    }

    async fn send(&mut self) {
        while let Some((to, message)) = self.runtime.to_send() {
            // who was removed is not spoken to
            if !self.members.contains_key(&to.member) {
                continue;
            }
            let Ok(packet) = self.sealer.seal(to.member, &message) else { continue };
            if self.socket.send_to(&packet, to.address).await.is_ok() {
                self.stats.sent.inc();
            }
        }
    }

    fn show(&mut self) {
        let mut states: HashMap<u64, NodeState> = self
            .foca
            .iter_membership_state()
            .map(|member| {
                let state = match member.state() {
                    State::Alive => NodeState::Alive,
                    State::Suspect => NodeState::Suspect,
                    State::Down => NodeState::Down,
                };
                (member.id().member, state)
            })
            .collect();
        states.insert(self.me, NodeState::Alive);
        let state = |id| states.get(&id).copied().unwrap_or(NodeState::Unknown);
        let before = self.publish.borrow().clone();
        let members = self.members.iter().map(|(id, info)| (*id, info.name.clone()));
        let next = before.next(members, state, &self.known, SystemTime::now());
        if next == *before {
            return;
        }
        for node in next.since(&before).0 {
            let was = before.get(node.member_id).map(|node| node.state);
            if was != Some(node.state) {
                tracing::info!(member = node.name, state = ?node.state, "gossip");
            }
        }
        self.stats.show(&next);
        self.publish.send_replace(Arc::new(next));
    }
}
