//! A process that is asked to stop notices it. Alone in its file: the signal is for all threads.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

#[tokio::test]
async fn both_signals_ask_for_a_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut stopped = pin!(telemetry::stop_signal());
        // The first poll takes the signals over from the system's default, which is to die.
        poll_fn(|cx| {
            assert!(stopped.as_mut().poll(cx).is_pending(), "nobody asked yet");
            Poll::Ready(())
        })
        .await;
        kill_process(getpid(), signal).unwrap();
        tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("noticed in time");
    }
}
