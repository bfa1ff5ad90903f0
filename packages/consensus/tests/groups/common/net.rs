//! A network that can be cut between two nodes: bytes then neither arrive nor bounce.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use consensus::{Dialer, NodeId, NodeInfo};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cut: HashSet<(NodeId, NodeId)>,
    waiting: Vec<Waker>,
}

impl Net {
    /// Cuts a node off from the others, both ways.
    pub fn isolate(&self, node: NodeId, others: &[NodeId]) {
        let mut state = self.0.lock().unwrap();
        for other in others {
            state.cut.insert((node, *other));
            state.cut.insert((*other, node));
        }
    }

    pub fn heal(&self) {
        let mut state = self.0.lock().unwrap();
        state.cut.clear();
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }

    fn pass(&self, link: (NodeId, NodeId), cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.cut.contains(&link) {
            state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// How one node dials the others.
pub struct Dial {
    pub net: Net,
    pub me: NodeId,
}

impl Dialer for Dial {
    fn dial(&self, id: NodeId, info: &NodeInfo) -> Result<Channel, fault::Fault> {
        let address = info.peer_urls[0].strip_prefix("http://").unwrap().to_string();
        let (net, link) = (self.net.clone(), (self.me, id));
        let connect = tower::service_fn(move |_| {
            let (net, address) = (net.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                io::Result::Ok(TokioIo::new(Gated { stream, net, link }))
            }
        });
        let endpoint = Endpoint::from_shared(info.peer_urls[0].clone()).unwrap();
        Ok(endpoint.connect_with_connector_lazy(connect))
    }
}

struct Gated {
    stream: TcpStream,
    net: Net,
    link: (NodeId, NodeId),
}

macro_rules! pass {
    ($self:ident, $cx:ident) => {
        if $self.net.pass($self.link, $cx).is_pending() {
            return Poll::Pending;
        }
    };
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        pass!(self, cx);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        pass!(self, cx);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
