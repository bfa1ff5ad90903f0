//! A child's tie to its supervisor: standard input, a pipe that nobody writes to.

use std::io::Read as _;

/// Returns when standard input closes: the supervisor let go, or died. Whatever is read is ignored.
///
/// A supervisor that sets `--lifeline` keeps the pipe's other end open as long as it lives, so a
/// child outlives it under no circumstances, kill -9 of the supervisor included.
pub async fn lifeline() {
    let (closed, wait) = tokio::sync::oneshot::channel();
    // a thread of its own, not the runtime's: a blocked read must not hold up the runtime's end
    let reader = std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        let mut ignored = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while !matches!(stdin.read(&mut ignored), Ok(0) | Err(_)) {}
        let _ = closed.send(());
    });
    match reader {
        Ok(_) => {
            let _ = wait.await;
            tracing::info!("the supervisor let go");
        }
        Err(error) => {
            tracing::warn!(%error, "the supervisor's end will not be noticed");
            std::future::pending::<()>().await;
        }
    }
}

/// Returns when the process should stop: by signal, or, with `lifeline`, when its supervisor is
/// gone.
pub async fn stop_requested(with_lifeline: bool) {
    if with_lifeline {
        tokio::select! {
            () = crate::stop_signal() => {}
            () = lifeline() => {}
        }
    } else {
        crate::stop_signal().await;
    }
}
