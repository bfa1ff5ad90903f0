//! gRPC and HTTPS servers and channels with mTLS, caller identity, health and graceful stop.
//!
//! The only place that configures TLS. What a caller may do is decided from [`Peer`], which every
//! request carries; it holds an id only if the handshake verified a certificate of the cluster's CA.
//!
//! Absent on purpose: session resumption (each connection verifies certificates anew, so that a
//! rotation or an expiry counts at once) and any way to skip verification.

mod answer;
mod backoff;
mod channel;
pub mod codes;
mod connection;
mod connector;
mod deadline;
mod gather;
mod https;
mod io;
mod metrics;
mod peer;
mod server;
mod server_time;
mod services;
mod tls;
mod tls_files;

pub use answer::http_error;
pub use backoff::Backoff;
pub use channel::channel;
pub use https::{Https, HttpsError};
pub use peer::Peer;
pub use server::{Server, ServerBuilder, serve_http};
pub use server_time::{ServerTime, server_time};
pub use services::{health, reflection, reflection_v1alpha};
pub use tls::{ClientAuth, Tls};
