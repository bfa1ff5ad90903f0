//! Readiness as a set of named gates: ready means that all are open.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The gates of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Name to the reason why it is closed; `None` is open.
    gates: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One gate. It starts closed with the reason "starting".
#[derive(Debug, Clone)]
pub struct Gate {
    name: String,
    health: Health,
}

impl Health {
    /// Without gates, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gate of this name; a new one is closed.
    pub fn gate(&self, name: &str) -> Gate {
        let starting = || Some("starting".to_owned());
        self.gates.lock().entry(name.to_owned()).or_insert_with(starting);
        Gate { name: name.to_owned(), health: self.clone() }
    }

    /// Ready, or the closed gates with their reasons, by name.
    pub fn ready(&self) -> Result<(), Vec<(String, String)>> {
        let gates = self.gates.lock();
        let closed: Vec<(String, String)> = gates
            .iter()
            .filter_map(|(name, reason)| Some((name.clone(), reason.clone()?)))
            .collect();
        if closed.is_empty() { Ok(()) } else { Err(closed) }
    }
}

impl Gate {
    /// Opens it.
    pub fn open(&self) {
        self.put(None);
    }

    /// Closes it, for a reason that whoever waits can read.
    pub fn close(&self, reason: impl Into<String>) {
        self.put(Some(reason.into()));
    }

    fn put(&self, reason: Option<String>) {
        let mut gates = self.health.gates.lock();
        let Some(now) = gates.get_mut(&self.name) else { return };
        match (&*now, &reason) {
            (Some(_), None) => tracing::info!(gate = self.name, "gate opened"),
            (None, Some(reason)) => tracing::info!(gate = self.name, reason, "gate closed"),
            _ => {}
        }
        *now = reason;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_gate_is_open() {
        let health = Health::new();
        assert_eq!(health.ready(), Ok(()));
        let (storage, leader) = (health.gate("storage"), health.gate("leader"));
        storage.open();
        let closed = vec![("leader".to_owned(), "starting".to_owned())];
        assert_eq!(health.ready(), Err(closed));
        leader.close("no leader for 3 s");
        assert_eq!(health.clone().ready().unwrap_err()[0].1, "no leader for 3 s");
        leader.open();
        assert_eq!(health.ready(), Ok(()));
        // Asking for a gate again does not close it.
        health.gate("leader");
        assert_eq!(health.ready(), Ok(()));
    }
}
