//! What a listener counts.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// The counters of one listener; connections that never became a request show only here and in
/// debug lines, as anybody can cause them.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) accepted: IntCounter,
    pub(crate) open: IntGauge,
    pub(crate) handshakes_failed: IntCounter,
    pub(crate) garbage: IntCounter,
    pub(crate) too_slow: IntCounter,
}

impl Metrics {
    pub(crate) fn new(listener: &str) -> Self {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("listener", listener);
        let counter = |name: &str, help: &str| {
            IntCounter::with_opts(opts(name, help)).expect("names and labels are constant")
        };
        Self {
            accepted: counter("rpc_connections_total", "Connections accepted."),
            open: IntGauge::with_opts(opts("rpc_connections_open", "Connections open now."))
                .expect("names and labels are constant"),
            handshakes_failed: counter(
                "rpc_handshakes_failed_total",
                "TLS handshakes that failed.",
            ),
            garbage: counter(
                "rpc_garbage_total",
                "Connections that did not speak HTTP as expected.",
            ),
            too_slow: counter(
                "rpc_too_slow_total",
                "Connections closed as they said nothing in time.",
            ),
        }
    }

    pub(crate) fn register(&self, registry: &Registry) {
        let Self { accepted, open, handshakes_failed, garbage, too_slow } = self.clone();
        // A second registration is refused, and means nothing.
        let _ = registry.register(Box::new(accepted));
        let _ = registry.register(Box::new(open));
        let _ = registry.register(Box::new(handshakes_failed));
        let _ = registry.register(Box::new(garbage));
        let _ = registry.register(Box::new(too_slow));
    }
}
