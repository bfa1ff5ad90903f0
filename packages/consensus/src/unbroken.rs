//! Futures and streams that are finished even when nobody waits for them any more.
//!
//! While the Raft core ends, its callers join it; one that is dropped just then leaves the library
//! in a state in which the next caller panics. So no call into the library is ever dropped half-way:
//! what is left of it runs on in a task of its own.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::runtime::Handle;

/// A call that goes on when its waiter is gone.
pub(crate) struct Unbroken<F: Future + Send + 'static>(Option<Pin<Box<F>>>);

/// Makes a call unbreakable.
pub(crate) fn unbroken<F: Future + Send + 'static>(call: F) -> Unbroken<F> {
    Unbroken(Some(Box::pin(call)))
}

impl<F: Future + Send + 'static> Future for Unbroken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(call) = &mut self.0 else { return Poll::Pending };
        let output = std::task::ready!(call.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<F: Future + Send + 'static> Drop for Unbroken<F> {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                rest.await;
            });
        }
    }
}

/// A stream that is drained when its reader is gone. It must end by itself then.
pub(crate) struct Drained<T: 'static>(Option<Pin<Box<dyn Stream<Item = T> + Send>>>);

/// Makes a stream unbreakable.
pub(crate) fn drained<T: 'static>(stream: impl Stream<Item = T> + Send + 'static) -> Drained<T> {
    Drained(Some(Box::pin(stream)))
}

impl<T: 'static> Stream for Drained<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        let next = std::task::ready!(stream.as_mut().poll_next(cx));
        if next.is_none() {
            self.0 = None;
        }
        Poll::Ready(next)
    }
}

impl<T: 'static> Drop for Drained<T> {
    fn drop(&mut self) {
        if let (Some(mut rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { while rest.next().await.is_some() {} });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_is_finished_all_the_same() {
        let done = Arc::new(AtomicU32::new(0));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let counted = done.clone();
        let mut call = unbroken(async move {
            let _ = wait.await;
            counted.fetch_add(1, Ordering::SeqCst);
        });
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        let counted = done.clone();
        drop(drained(futures::stream::iter(0..3).inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        })));
        go.send(()).unwrap();
        while done.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
    }
}
