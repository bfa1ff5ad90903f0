//! What can be set, with its defaults and its checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use fault::{Fault, Kind};
use identity::TlsFiles;
use serde::Deserialize;
use uuid::Uuid;

use crate::codes;

/// The largest `limits.request_bytes`. What is proposed together becomes one record of the journal,
/// and a record that does not fit a segment would end the leader: this leaves room.
const REQUEST_MAX: usize = 16 << 20;

/// The settings of one process: `/etc/plasma/chainfire.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The member's name, unique in the cluster.
    pub name: String,
    /// Where everything is kept; one process at a time.
    pub data_dir: PathBuf,
    /// The cluster's id, minted before the first node starts.
    pub cluster_id: Uuid,
    /// What to do when the data folder is empty.
    #[serde(default)]
    pub initial: Initial,
    /// Peer addresses of members to ask when joining.
    #[serde(default)]
    pub join: Vec<String>,
    /// Where clients come in over TLS.
    pub client: Option<Endpoint>,
    /// Where other members come in.
    pub peer: Endpoint,
    /// Probes and metrics.
    pub ops: Option<telemetry::OpsSettings>,
    /// The service's certificate: for both listeners and for dialing peers.
    pub tls: Option<TlsFiles>,
    /// A listener for clients without TLS: for benchmarks and embedding.
    pub plaintext: Option<Plaintext>,
    /// Members speak to each other without TLS; only without `[tls]`.
    #[serde(default)]
    pub plaintext_peer: bool,
    /// Who is there, by SWIM gossip; without it there is none.
    pub gossip: Option<GossipSettings>,
    /// How to log.
    #[serde(default)]
    pub log: telemetry::LogSettings,
    /// Sizes and times of the store.
    #[serde(default)]
    pub storage: Storage,
    /// Times of consensus.
    #[serde(default)]
    pub raft: Raft,
    /// Limits on requests.
    #[serde(default)]
    pub limits: Limits,
    /// Passwords and tokens.
    #[serde(default)]
    pub auth: Auth,
}

/// What to do when the data folder is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Become the first member of a new cluster.
    Form,
    /// Ask the members named in `join`.
    #[default]
    Join,
}

/// A listener and the address under which others find it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The URL others use; without it, made from the address that is really listened on.
    pub advertise: Option<String>,
}

/// A listener without TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plaintext {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Gossip between the members, over UDP. It informs and never decides.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GossipSettings {
    /// Address and UDP port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others send to; without it the address that is listened on, or, where that is all of
    /// them, the one in the peer URL.
    pub advertise: Option<SocketAddr>,
    /// How often each member probes another. One that answers nobody is suspected after one such
    /// time, and down after three more.
    #[serde(default = "probe_ms")]
    pub probe_ms: u64,
    /// What this node is for, told to others.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Whatever else others shall know of this node.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl GossipSettings {
    /// On this address, with defaults for all else.
    pub fn on(listen: SocketAddr) -> GossipSettings {
        GossipSettings {
            listen,
            advertise: None,
            probe_ms: probe_ms(),
            roles: Vec::new(),
            labels: BTreeMap::new(),
        }
    }
}

fn probe_ms() -> u64 {
    1000
}

/// Sizes and times of the store.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Beyond so many bytes on disk the NOSPACE alarm is raised; 0 is no quota.
    pub quota_bytes: u64,
    /// How often applied state is made durable and the log is cut.
    pub persist_seconds: u64,
    /// Memory for values and blocks.
    pub cache_bytes: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self { quota_bytes: 8 << 30, persist_seconds: 1, cache_bytes: 64 << 20 }
    }
}

/// Times of consensus. The same on all members.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// How often a leader says that it lives.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a follower asks to be elected; the longest is twice this.
    pub election_ms: u64,
    /// Entries that stay in the log behind the persisted state, for followers that lag; one that
    /// lags more gets a snapshot.
    pub snapshot_entries: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self { heartbeat_ms: 200, election_ms: 1000, snapshot_entries: 10_000 }
    }
}

/// Limits on requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request that writes.
    pub request_bytes: usize,
    /// The most operations in a transaction.
    pub txn_ops: usize,
    /// How long a request may wait for the cluster.
    pub request_seconds: u64,
    /// How often a quiet watch that asked for it is told how far it is.
    pub progress_seconds: u64,
    /// How often remaining lease times are written down.
    pub checkpoint_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 3 << 19,
            txn_ops: 128,
            request_seconds: 5,
            progress_seconds: 600,
            checkpoint_seconds: 60,
        }
    }
}

/// Passwords and tokens, once authentication is enabled.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// How long a token is good.
    pub token_seconds: u64,
    /// How slow bcrypt is: each step doubles the time of a login.
    pub bcrypt_cost: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self { token_seconds: 3600, bcrypt_cost: 10 }
    }
}

impl Settings {
    /// Defaults, for a member of this name: it joins, nobody can reach it but at `peer`, and that
    /// is not all it needs.
    pub fn new(name: String, data_dir: PathBuf, cluster_id: Uuid, peer: Endpoint) -> Settings {
        Settings {
            name,
            data_dir,
            cluster_id,
            initial: Initial::default(),
            join: Vec::new(),
            client: None,
            peer,
            ops: None,
            tls: None,
            plaintext: None,
            plaintext_peer: false,
            gossip: None,
            log: telemetry::LogSettings::default(),
            storage: Storage::default(),
            raft: Raft::default(),
            limits: Limits::default(),
            auth: Auth::default(),
        }
    }

    /// Refuses what cannot work, before anything is touched.
    pub fn check(&self) -> Result<(), Fault> {
        let refuse = |what: &str, hint: &str| {
            Err(Fault::new(codes::SETTINGS, Kind::Invalid, what.to_owned(), hint))
        };
        if !is_label(&self.name) {
            return refuse("name is not a DNS label", "use a-z, 0-9 and -, at most 63 characters");
        }
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data_dir is empty", "name a folder that survives a restart");
        }
        if self.initial == Initial::Form && self.cluster_id.is_nil() {
            return refuse("cluster_id is all zero", "mint one, for example with uuidgen");
        }
        match (&self.tls, self.plaintext_peer) {
            (None, false) => {
                return refuse(
                    "there is no [tls]",
                    "give cert, key and ca, or set plaintext_peer for tests",
                );
            }
            (Some(_), true) => {
                return refuse("plaintext_peer contradicts [tls]", "remove one of the two");
            }
            _ => {}
        }
        if self.tls.is_none() && self.client.is_some() {
            return refuse("[client] needs [tls]", "or use [plaintext], which says what it is");
        }
        if self.client.is_none() && self.plaintext.is_none() {
            return refuse("clients have no listener", "give [client] with [tls], or [plaintext]");
        }
        let ends = [("client", self.client.as_ref()), ("peer", Some(&self.peer))];
        for (name, end) in ends {
            let Some(url) = end.and_then(|end| end.advertise.as_ref()) else { continue };
            let scheme = if self.tls.is_some() { "https://" } else { "http://" };
            if !url.starts_with(scheme) {
                return refuse(
                    &format!("{name}.advertise {url:?} does not begin with {scheme}"),
                    "others dial this URL; its scheme must be what this node speaks",
                );
            }
        }
        if self.raft.heartbeat_ms < 10 || self.raft.election_ms < 3 * self.raft.heartbeat_ms {
            return refuse(
                "raft times do not fit together",
                "heartbeat_ms is at least 10, election_ms at least three heartbeats",
            );
        }
        if let Some(gossip) = &self.gossip {
            if !(50..=60_000).contains(&gossip.probe_ms) {
                return refuse("gossip.probe_ms is out of range", "50 to 60000");
            }
            if gossip.advertise.is_some_and(|it| it.ip().is_unspecified() || it.port() == 0) {
                return refuse(
                    "gossip.advertise is no address that others can send to",
                    "name one address and port of this node",
                );
            }
            let texts = gossip.labels.iter().flat_map(|(key, value)| [key, value]);
            let fit = |text: &String| text.len() <= 128;
            if gossip.roles.len() > 32
                || gossip.labels.len() > 32
                || !gossip.roles.iter().chain(texts).all(fit)
            {
                return refuse(
                    "gossip.roles or gossip.labels say too much",
                    "at most 32 of each, each text at most 128 bytes",
                );
            }
        }
        let limits = &self.limits;
        if !(1024..=REQUEST_MAX).contains(&limits.request_bytes) {
            return refuse(
                "limits.request_bytes is out of range",
                "1024 (1 KiB) to 16777216 (16 MiB)",
            );
        }
        if !(1..=100_000).contains(&limits.txn_ops) {
            return refuse("limits.txn_ops is out of range", "1 to 100000");
        }
        if !(10..=30 * 86_400).contains(&self.auth.token_seconds) {
            return refuse("auth.token_seconds is out of range", "10 to 2592000 (30 days)");
        }
        if !(4..=16).contains(&self.auth.bcrypt_cost) {
            return refuse("auth.bcrypt_cost is out of range", "4 to 16");
        }
        let seconds = [
            limits.request_seconds,
            limits.progress_seconds,
            limits.checkpoint_seconds,
            self.storage.persist_seconds,
        ];
        if seconds.iter().any(|s| !(1..=86_400).contains(s)) {
            return refuse("a time in seconds is out of range", "1 to 86400");
        }
        Ok(())
    }
}

fn is_label(name: &str) -> bool {
    let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(fit)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "node01"
        data_dir = "/var/lib/chainfire"
        cluster_id = "018f0000-0000-7000-8000-000000000001"
        initial = "form"
        [client]
        listen = "127.0.1.1:2379"
        advertise = "https://127.0.1.1:2379"
        [peer]
        listen = "127.0.1.1:2380"
        [ops]
        listen = "127.0.1.1:9379"
        [tls]
        cert = "cert.pem"
        key = "key.pem"
        ca = "ca.pem"
    "#;

    fn parse(text: &str) -> Result<Settings, Fault> {
        settings::parse(std::path::Path::new("chainfire.toml"), text)
    }

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        match parse(&GOOD.replace(from, to)).and_then(|s| s.check().map(|()| s)) {
            Ok(_) => String::new(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn a_good_file_is_taken() {
        let settings = parse(GOOD).unwrap();
        settings.check().unwrap();
        assert_eq!(settings.limits.request_bytes, 1_572_864);
        assert_eq!(settings.storage.quota_bytes, 8 << 30);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_sentence() {
        let table = [
            ("name = \"node01\"", "name = \"Node 1\"", "DNS label"),
            ("0001\"", "0001\"\nplaintext_peer = true", "contradicts"),
            ("https://127", "http://127", "does not begin with https://"),
            ("[ops]", "[raft]\nelection_ms = 100\n[ops]", "do not fit"),
            ("[ops]", "[limits]\ntxn_ops = 0\n[ops]", "txn_ops"),
            ("[ops]", "[auth]\ntoken_seconds = 1\n[ops]", "token_seconds"),
            ("[ops]", "[auth]\nbcrypt_cost = 31\n[ops]", "bcrypt_cost"),
            ("[ops]", "[limits]\nrequest_bytes = 16777217\n[ops]", "to 16777216"),
            ("[ops]", "[limits]\nrequest_bytes = 1023\n[ops]", "request_bytes"),
            ("[ops]", "[limits]\nprogress_seconds = 0\n[ops]", "seconds"),
            ("[ops]", "[gossip]\nlisten = \"0.0.0.0:1\"\nprobe_ms = 1\n[ops]", "probe_ms"),
            (
                "[ops]",
                "[gossip]\nlisten = \"0.0.0.0:1\"\nadvertise = \"0.0.0.0:1\"\n[ops]",
                "gossip.advertise",
            ),
            ("listen = \"127.0.1.1:2380\"", "listne = \"127.0.1.1:2380\"", "listne"),
            ("initial = \"form\"", "initial = \"maybe\"", "maybe"),
        ];
        for (from, to, expected) in table {
            let said = refusal(from, to);
            assert!(said.contains(expected), "{to}: {said:?}");
        }
    }

    #[test]
    fn the_largest_request_fits_a_record_of_the_journal() {
        let most = "[limits]\nrequest_bytes = 16777216\n[ops]";
        assert_eq!(refusal("[ops]", most), "");
        // A request may find a batch that is almost full.
        let entry = REQUEST_MAX + consensus::GroupOptions::default().batch_bytes + (1 << 20);
        assert!((entry as u64) < journal::Options::default().segment_bytes / 2);
    }

    #[test]
    fn without_tls_only_what_says_plaintext_listens() {
        let tls = GOOD.split_once("[tls]").unwrap().0;
        assert!(parse(tls).unwrap().check().unwrap_err().what.contains("no [tls]"));
        let bare = tls.replace("initial", "plaintext_peer = true\ninitial");
        assert!(parse(&bare).unwrap().check().unwrap_err().what.contains("[client] needs"));
        let bare = bare
            .replace("[client]", "[plaintext]")
            .replace("advertise = \"https://127.0.1.1:2379\"", "");
        parse(&bare).unwrap().check().unwrap();
    }
}
