//! Where work runs that would hold up the tasks: on threads of its own. In a simulation, where
//! the same seed must give the same order, it runs in place, as a task like all others.

use std::cell::Cell;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

thread_local! {
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// From now on nothing that is started on this thread uses another one. For simulations on a
/// runtime of one thread: all else waits meanwhile.
pub fn run_in_place() {
    IN_PLACE.set(true);
}

/// Whether this thread was told to [`run_in_place`].
pub fn in_place() -> bool {
    IN_PLACE.get()
}

/// Runs work that may wait for a disk or take long.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if in_place() { tokio::spawn(async move { work() }) } else { tokio::task::spawn_blocking(work) }
}

/// Sends items that may take long to make, until they end or nobody wants them.
pub fn pump<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
    to: mpsc::Sender<T>,
) {
    if in_place() {
        tokio::spawn(async move {
            for item in items {
                if to.send(item).await.is_err() {
                    return;
                }
            }
        });
    } else {
        tokio::task::spawn_blocking(move || {
            for item in items {
                if to.blocking_send(item).is_err() {
                    return;
                }
            }
        });
    }
}

/// Hands what arrives to work that may wait for a disk, until nothing more comes or it fails.
pub(crate) fn gather<T: Send + 'static, S: Send + 'static, E: Send + 'static>(
    mut from: mpsc::Receiver<T>,
    begin: impl FnOnce() -> Result<S, E> + Send + 'static,
    take: impl Fn(&mut S, T) -> Result<(), E> + Send + 'static,
) -> JoinHandle<Result<S, E>> {
    if in_place() {
        tokio::spawn(async move {
            let mut state = begin()?;
            while let Some(item) = from.recv().await {
                take(&mut state, item)?;
            }
            Ok(state)
        })
    } else {
        tokio::task::spawn_blocking(move || {
            let mut state = begin()?;
            while let Some(item) = from.blocking_recv() {
                take(&mut state, item)?;
            }
            Ok(state)
        })
    }
}
