//! The signals that ask a process to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process was asked to stop: SIGTERM or SIGINT.
pub async fn stop_signal() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM is not handled");
                std::future::pending::<()>().await;
            }
        }
    };
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "SIGINT is not handled");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminate => tracing::info!(signal = "SIGTERM", "asked to stop"),
        () = interrupt => tracing::info!(signal = "SIGINT", "asked to stop"),
    }
}
