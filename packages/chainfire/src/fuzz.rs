//! The decoders of this crate, for fuzzing: none may panic, hang or take more memory than its
//! input allows. Driven by `tests/decoders.rs` with a few inputs, and by `fuzz/` with many.

use std::path::Path;

use crate::Settings;
pub use crate::store::fuzz::{TARGETS as STORE, Target};

/// All that are not the store's.
pub const TARGETS: &[Target] = &[("settings", settings, files)];

fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(settings) = ::settings::parse::<Settings>(Path::new("chainfire.toml"), text) {
        let _ = settings.check();
    }
}

fn files() -> Vec<Vec<u8>> {
    let text = r#"
name = "node01"
data_dir = "/var/lib/plasma/chainfire"
cluster_id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
initial = "join"
join = ["https://10.20.0.11:2380"]
plaintext_peer = true
[peer]
listen = "10.20.0.11:2380"
advertise = "http://10.20.0.11:2380"
[plaintext]
listen = "127.0.0.1:2379"
[storage]
quota_bytes = 1073741824
persist_seconds = 5
[raft]
heartbeat_ms = 200
election_ms = 1000
[limits]
request_bytes = 1572864
"#;
    vec![text.as_bytes().to_vec()]
}
