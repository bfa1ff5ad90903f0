//! Writes that go out together.
//!
//! An HTTP/2 connection is polled as soon as one of its answers is ready, and would hand the system
//! that one alone: on a busy server, a system call an answer. Here a flush of little first lets the
//! other tasks that are ready run, once; what they have to say leaves with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, in bytes.
const GATHERED_MAX: usize = 16 << 10;
/// From so many bytes on nothing is gained by waiting, or by a copy.
const LARGE: usize = 8 << 10;

/// A stream that gathers what is written until it is flushed.
pub(crate) struct Gather<T> {
    io: T,
    gathered: BytesMut,
    /// The flush under way has let the others run.
    waited: bool,
}

impl<T> Gather<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, gathered: BytesMut::new(), waited: false }
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gathered.has_remaining() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.gathered.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Behind what is gathered, without a copy.
    fn poll_write_large(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let ahead = self.gathered.len();
            if ahead == 0 {
                return Pin::new(&mut self.io).poll_write(cx, buf);
            }
            let both = [io::IoSlice::new(&self.gathered), io::IoSlice::new(buf)];
            let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &both))?;
            self.gathered.advance(count.min(ahead));
            match count {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count if count > ahead => return Poll::Ready(Ok(count - ahead)),
                _ => {}
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

/// Not vectored: then HTTP/2 puts several frames into one write.
impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.len() >= LARGE {
            return this.poll_write_large(cx, buf);
        }
        if this.gathered.len() + buf.len() > GATHERED_MAX {
            ready!(this.poll_drain(cx))?;
        }
        this.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.waited && !this.gathered.is_empty() && this.gathered.len() < LARGE {
            this.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_drain(cx))?;
        this.waited = false;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<T: Connection> Connection for Gather<T> {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use tokio::io::AsyncReadExt;

    /// Takes so many bytes a call, and counts the calls.
    struct Narrow {
        width: usize,
        calls: usize,
        taken: Vec<u8>,
    }

    impl Narrow {
        fn new(width: usize) -> Gather<Narrow> {
            Gather::new(Narrow { width, calls: 0, taken: Vec::new() })
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            this.calls += 1;
            let before = this.taken.len();
            for buf in bufs {
                let room = this.width - (this.taken.len() - before);
                this.taken.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            Poll::Ready(Ok(this.taken.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_all(gather: &mut Gather<Narrow>, cx: &mut Context<'_>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match Pin::new(&mut *gather).poll_write(cx, bytes) {
                Poll::Ready(Ok(count)) => bytes = &bytes[count..],
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_flush_lets_others_add_to_it_once() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut gather = Narrow::new(usize::MAX);
        write_all(&mut gather, cx, b"one ");
        assert!(Pin::new(&mut gather).poll_flush(cx).is_pending());
        assert_eq!((woken.0.load(Ordering::Relaxed), gather.io.calls), (1, 0));
        write_all(&mut gather, cx, b"two");
        assert!(Pin::new(&mut gather).poll_flush(cx).is_ready());
        assert_eq!((&gather.io.taken[..], gather.io.calls), (&b"one two"[..], 1));
        // Nothing to say: no wait.
        assert!(Pin::new(&mut gather).poll_flush(cx).is_ready());
        write_all(&mut gather, cx, b", three");
        assert!(Pin::new(&mut gather).poll_flush(cx).is_pending());
        // An end leaves nothing behind.
        assert!(Pin::new(&mut gather).poll_shutdown(cx).is_ready());
        assert_eq!(gather.io.taken, b"one two, three");
    }

    #[test]
    fn every_byte_arrives_in_its_place_however_much_is_taken_at_once() {
        let waker = Waker::noop();
        let cx = &mut Context::from_waker(waker);
        for width in [1, 7, 5000, 9000, usize::MAX] {
            let mut gather = Narrow::new(width);
            let mut all = Vec::new();
            for (at, len) in
                [3, LARGE, 1, LARGE - 1, LARGE - 1, LARGE - 1, 2, 40_000, 5].into_iter().enumerate()
            {
                let piece: Vec<u8> = (0..len).map(|byte| (byte * 31 + at) as u8).collect();
                write_all(&mut gather, cx, &piece);
                assert!(gather.gathered.len() <= GATHERED_MAX);
                all.extend(piece);
            }
            while Pin::new(&mut gather).poll_flush(cx).is_pending() {}
            assert!(gather.io.taken == all, "width {width}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_closed_says_so() {
        let waker = Waker::noop();
        let cx = &mut Context::from_waker(waker);
        let mut gather = Narrow::new(0);
        write_all(&mut gather, cx, b"lost");
        let ended = match Pin::new(&mut gather).poll_shutdown(cx) {
            Poll::Ready(ended) => ended,
            Poll::Pending => panic!("it waits for ever"),
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::WriteZero);
        let mut read = Gather::new(&b"read as it is"[..]);
        let mut text = String::new();
        read.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "read as it is");
    }
}
