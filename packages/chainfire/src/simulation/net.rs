//! The network between simulated nodes: connections that delay, stall and break.
//!
//! As with TCP, bytes of one direction of a connection arrive in order or not at all; a lost packet
//! shows as a long delay. A cut is one way: what was sent into it arrives when it is healed. A
//! node that has lost its power does not even refuse.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use consensus::NodeId;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::{Channel, Endpoint};

use super::chance::Dice;

/// Bytes on their way in one direction, before the writer waits.
const ROOM: usize = 256 << 10;
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// From and to.
type Link = (NodeId, NodeId);

#[derive(Clone)]
pub(super) struct Net(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    weather: Weather,
    cut: BTreeSet<Link>,
    /// Nodes that do not answer at all.
    silent: BTreeSet<NodeId>,
    lanes: BTreeMap<Link, Vec<Weak<Lane>>>,
    doors: BTreeMap<NodeId, mpsc::UnboundedSender<Pipe>>,
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Milliseconds that bytes take, at most.
    pub(super) delay: u64,
    /// One in so many writes is delayed as by a lost packet.
    pub(super) lost: u64,
}

impl Net {
    pub(super) fn new(dice: Dice) -> Net {
        Net(Arc::new(Mutex::new(State {
            dice,
            weather: Weather { delay: 3, lost: 1000 },
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            lanes: BTreeMap::new(),
            doors: BTreeMap::new(),
        })))
    }

    pub(super) fn weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    pub(super) fn cut(&self, links: &[Link]) {
        self.0.lock().cut.extend(links);
    }

    pub(super) fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.wake(|_| true);
    }

    /// A node begins to listen; connections of its earlier life break.
    pub(super) fn listen(&self, node: NodeId) -> mpsc::UnboundedReceiver<Pipe> {
        let (door, connections) = mpsc::unbounded_channel();
        let mut state = self.0.lock();
        state.silent.remove(&node);
        state.reset(node);
        state.doors.insert(node, door);
        connections
    }

    /// A node is gone. Silent means that its peers are not told.
    pub(super) fn down(&self, node: NodeId, silent: bool) {
        let mut state = self.0.lock();
        state.doors.remove(&node);
        if silent {
            state.silent.insert(node);
        } else {
            state.reset(node);
        }
    }

    async fn connect(&self, (from, to): Link) -> io::Result<Pipe> {
        let delay = self.0.lock().delay();
        sleep(delay).await;
        let met = {
            let mut state = self.0.lock();
            if state.is_cut((from, to)) || state.is_cut((to, from)) {
                None
            } else {
                Some(state.meet(self, (from, to)))
            }
        };
        match met {
            Some(pipe) => pipe,
            None => {
                sleep(CONNECT_MAX).await;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// A channel of gRPC from one node to the URL of another.
    pub(super) fn channel(&self, from: NodeId, url: &str) -> Option<Channel> {
        let to = url.rsplit_once("node-")?.1.parse().ok()?;
        let net = self.clone();
        let connect = tower::service_fn(move |_| {
            let net = net.clone();
            async move { net.connect((from, to)).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(url.to_owned()).ok()?;
        let endpoint = endpoint
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Some(endpoint.connect_with_connector_lazy(connect))
    }
}

pub(super) fn url(node: NodeId) -> String {
    format!("http://node-{node}")
}

impl State {
    fn is_cut(&self, link: Link) -> bool {
        self.cut.contains(&link) || self.silent.contains(&link.0) || self.silent.contains(&link.1)
    }

    fn delay(&mut self) -> Duration {
        let Weather { delay, lost } = self.weather;
        let usual = self.dice.between(200, 1000 * delay.max(1));
        let again = if self.dice.one_in(lost) { self.dice.between(200_000, 700_000) } else { 0 };
        Duration::from_micros(usual + again)
    }

    fn meet(&mut self, net: &Net, (from, to): Link) -> io::Result<Pipe> {
        let lane = |link| Arc::new(Lane { net: net.clone(), link, state: Mutex::default() });
        let (there, back) = (lane((from, to)), lane((to, from)));
        for lane in [&there, &back] {
            let lanes = self.lanes.entry(lane.link).or_default();
            lanes.retain(|lane| lane.strong_count() > 0);
            lanes.push(Arc::downgrade(lane));
        }
        let door = self.doors.get(&to).ok_or(io::ErrorKind::ConnectionRefused)?;
        let far = Pipe { read: there.clone(), write: back.clone(), due: None };
        door.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Pipe { read: back, write: there, due: None })
    }

    fn wake(&self, of: impl Fn(Link) -> bool) {
        for lane in self.lanes.iter().filter(|(link, _)| of(**link)).flat_map(|(_, lanes)| lanes) {
            if let Some(lane) = lane.upgrade() {
                lane.state.lock().wake();
            }
        }
    }

    fn reset(&mut self, node: NodeId) {
        let here = |link: &Link| link.0 == node || link.1 == node;
        for (_, lanes) in self.lanes.iter_mut().filter(|(link, _)| here(link)) {
            for lane in lanes.drain(..).filter_map(|lane| lane.upgrade()) {
                let mut state = lane.state.lock();
                state.broken = true;
                state.wake();
            }
        }
    }
}

/// One direction of a connection.
struct Lane {
    net: Net,
    link: Link,
    state: Mutex<Flow>,
}

#[derive(Default)]
struct Flow {
    queue: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last: Option<Instant>,
    closed: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// One end of a connection.
pub(super) struct Pipe {
    read: Arc<Lane>,
    write: Arc<Lane>,
    due: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let cut = this.read.net.0.lock().is_cut(this.read.link);
            let mut flow = this.read.state.lock();
            if flow.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            flow.reader = Some(cx.waker().clone());
            let at = match flow.queue.front() {
                _ if cut => return Poll::Pending,
                None if flow.closed => return Poll::Ready(Ok(())),
                None => return Poll::Pending,
                Some((at, _)) => *at,
            };
            if at > Instant::now() {
                drop(flow);
                let due = this.due.insert(Box::pin(tokio::time::sleep_until(at)));
                ready!(due.as_mut().poll(cx));
                continue;
            }
            while buf.remaining() > 0
                && let Some((at, bytes)) = flow.queue.front_mut()
                && *at <= Instant::now()
            {
                let some = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..some]);
                bytes.advance(some);
                if bytes.is_empty() {
                    flow.queue.pop_front();
                }
                flow.bytes -= some;
            }
            flow.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let delay = self.write.net.0.lock().delay();
        let mut flow = self.write.state.lock();
        if flow.broken || flow.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if flow.bytes >= ROOM {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let at = (Instant::now() + delay).max(flow.last.unwrap_or_else(Instant::now));
        flow.last = Some(at);
        flow.bytes += buf.len();
        flow.queue.push_back((at, Bytes::copy_from_slice(buf)));
        flow.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut flow = self.write.state.lock();
        flow.closed = true;
        flow.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut flow = self.write.state.lock();
        flow.closed = true;
        flow.wake();
        drop(flow);
        let mut flow = self.read.state.lock();
        flow.broken = true;
        flow.wake();
    }
}

impl tonic::transport::server::Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
