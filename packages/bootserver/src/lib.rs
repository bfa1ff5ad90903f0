//! Boot server: inventory, cluster CA, join tokens, the grant to form the cluster, progress.
//!
//! One process, one state folder ([`folder`]), HTTPS with JSON bodies ([`wire`]). What it promises
//! (a token spent, the grant given) is decided in [`registry`], on disk before the answer leaves,
//! and so survives a crash at any point. Whoever has a certificate of the cluster is known by it;
//! a node without one has its join token and nothing else.
//!
//! Absent on purpose: a way to form the cluster twice, and any decision taken from a report.

pub mod boot;
mod certificates;
pub mod client;
pub mod codes;
mod desk;
pub mod dhcp;
pub mod folder;
mod installs;
mod progress;
pub mod registry;
mod routes;
mod server;
mod settings;
pub mod wire;

pub use folder::{Folder, Init, operator_files, read_inventory};
pub use progress::STATES;
pub use server::{Running, start};
pub use settings::{
    BootSettings, CertificateSettings, EnrollmentSettings, HandOut, Settings, TokenSettings,
};
