//! Tells readers on other threads that users or roles changed.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// A number that changes with every change; its lowest bit says whether authentication is enabled.
#[derive(Debug)]
pub(in crate::store) struct AuthSignal {
    epoch: AtomicU64,
    changed: watch::Sender<u64>,
}

impl AuthSignal {
    pub(in crate::store) fn new(enabled: bool) -> AuthSignal {
        let epoch = u64::from(enabled);
        AuthSignal { epoch: AtomicU64::new(epoch), changed: watch::Sender::new(epoch) }
    }

    /// Called by the apply thread alone.
    pub(in crate::store) fn set(&self, enabled: bool) {
        let next = (self.epoch() | 1) + 1 + u64::from(enabled);
        self.epoch.store(next, Ordering::Release);
        self.changed.send_replace(next);
    }

    pub(in crate::store) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(in crate::store) fn enabled(&self) -> bool {
        Self::is_enabled(self.epoch())
    }

    pub(in crate::store) fn is_enabled(epoch: u64) -> bool {
        epoch & 1 == 1
    }

    pub(in crate::store) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
