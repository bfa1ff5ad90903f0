//! Bodies of images: a bounded number at once, a bounded queue before them, and no place for a
//! reader that does not read.

use std::fs::File;
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use fault::{Fault, Kind};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;

use crate::codes;

const CHUNK: usize = 256 << 10;
/// More machines that wait are told to come again.
const MOST_WAITING: usize = 64;

/// How patient the streams are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a machine waits for its turn.
    pub(crate) turn: Duration,
    /// A reader that takes nothing for so long loses its place.
    pub(crate) stall: Duration,
    /// Slower readers, over the whole body, lose it too.
    pub(crate) bytes_per_second: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            turn: Duration::from_secs(30),
            stall: Duration::from_secs(20),
            bytes_per_second: 64 << 10,
        }
    }
}

/// The places for bodies.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    patience: Patience,
}

impl Streams {
    pub(crate) fn new(places: usize, patience: Patience) -> Streams {
        Streams { places: Arc::new(Semaphore::new(places)), waiting: Arc::default(), patience }
    }

    /// Waits for a place; the queue and the wait are bounded.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::enter(&self.waiting).ok_or_else(busy)?;
        let turn = self.places.clone().acquire_owned();
        match tokio::time::timeout(self.patience.turn, turn).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(busy()),
        }
    }

    /// A body of `count` bytes from `first`; it keeps its place until it ends or the reader stalls.
    pub(crate) fn body(
        &self,
        place: OwnedSemaphorePermit,
        file: File,
        first: u64,
        count: u64,
    ) -> Body {
        let (tell, told) = mpsc::channel(2);
        let patience = self.patience;
        tokio::spawn(async move {
            let limit =
                patience.stall + Duration::from_secs(count / patience.bytes_per_second.max(1));
            let send = send(file, first, count, patience.stall, &tell);
            let why = match tokio::time::timeout(limit, send).await {
                Ok(Ok(())) => return,
                Ok(Err(why)) => why,
                Err(_) => Cut::Slow,
            };
            tracing::debug!(%why, "an image was not sent to its end");
            drop(place);
        });
        Body::from_stream(Whole { told, left: count })
    }
}

/// Ends with an error when the pieces end too early: no reader may take a part for the whole.
struct Whole {
    told: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Stream for Whole {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.told.poll_recv(cx).map(|piece| match piece {
            Some(piece) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Some(Ok(piece))
            }
            None if self.left == 0 => None,
            None => {
                self.left = 0;
                Some(Err(std::io::Error::other("the image was not sent to its end")))
            }
        })
    }
}

/// Why a body was cut short.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the image cannot be read: {0}")]
    Disk(#[from] std::io::Error),
    #[error("the reader went away or takes nothing")]
    Reader,
    #[error("the reader is too slow")]
    Slow,
}

async fn send(
    file: File,
    first: u64,
    count: u64,
    stall: Duration,
    tell: &mpsc::Sender<Bytes>,
) -> Result<(), Cut> {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK);
    file.seek(SeekFrom::Start(first)).await?;
    let mut left = count;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0u8; size];
        file.read_exact(&mut chunk).await?;
        left -= size as u64;
        tell.send_timeout(chunk.into(), stall).await.map_err(|_| Cut::Reader)?;
    }
    Ok(())
}

fn busy() -> Fault {
    Fault::new(
        codes::STREAMS_BUSY,
        Kind::Unavailable,
        "all places for images are taken",
        "ask again in a few seconds, or raise boot.max_streams",
    )
}

/// One that waits for its turn.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Waiting<'a>> {
        let waiting = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn big() -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7u8; 4 << 20]).unwrap();
        file
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_loses_its_place() {
        let patience = Patience {
            turn: Duration::from_secs(30),
            stall: Duration::from_millis(100),
            bytes_per_second: 1 << 30,
        };
        let streams = Streams::new(1, patience);
        let place = streams.place().await.unwrap();
        let stalled = streams.body(place, big(), 0, 4 << 20);
        // the next one gets the place although nobody reads the first
        let place = streams.place().await.unwrap();
        let body = streams.body(place, big(), 1, (4 << 20) - 1);
        let bytes = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        assert_eq!(bytes.len(), (4 << 20) - 1);
        axum::body::to_bytes(stalled, 8 << 20).await.expect_err("it is not whole");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let patience = Patience { turn: Duration::from_millis(50), ..Patience::default() };
        let streams = Streams::new(1, patience);
        let _place = streams.place().await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let streams = streams.clone();
            waiting.spawn(async move { streams.place().await.map(drop) });
        }
        while let Some(done) = waiting.join_next().await {
            assert_eq!(done.unwrap().unwrap_err().code, codes::STREAMS_BUSY);
        }
        assert_eq!(streams.waiting.load(Ordering::Relaxed), 0);
    }
}
