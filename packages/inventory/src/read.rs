//! From JSON to types: one walk that notes every fault with its path and goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fault::{Code, Fault, Kind};
use serde_json::{Map, Value};

use crate::names::{is_domain, is_label, is_serial, is_ssh_key};
use crate::{
    Bootserver, Cluster, Disk, DiskMatch, Inventory, Layout, Mac, Node, Operator, Role, codes,
};

/// A thousand nodes take about half of this.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Enough for the large cloud of the design, and the reason why faults are bounded too.
const MAX_NODES: usize = 4096;
const MAX_LIST: usize = 64;
/// Reading stops noting faults here: nobody reads on, and hostile input must not fill memory.
const MAX_FAULTS: usize = 100;

pub(crate) fn invalid(code: Code, what: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault::new(code, Kind::Invalid, what, hint)
}

pub(crate) fn not_json(error: &serde_json::Error) -> Fault {
    invalid(
        codes::NOT_JSON,
        format!("the inventory is no JSON: {error}"),
        "make it anew from nodes/cluster.nix",
    )
}

pub(crate) fn too_large(bytes: usize) -> Fault {
    invalid(
        codes::TOO_LARGE,
        format!("the inventory has {bytes} bytes, more than {MAX_BYTES}"),
        "check that this file is an inventory",
    )
}

/// The types, as far as they could be read, and what is wrong.
pub(crate) fn inventory(value: &Value) -> (Option<Inventory>, Vec<Fault>) {
    let mut reader = Reader { faults: Vec::new() };
    let inventory = reader.inventory(value);
    (inventory, reader.faults)
}

struct Reader {
    faults: Vec<Fault>,
}

/// One JSON object and where it stands.
struct Table<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl Table<'_> {
    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl Reader {
    fn note(&mut self, code: Code, what: impl Into<String>, hint: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(invalid(code, what, hint));
        }
    }

    fn inventory(&mut self, value: &Value) -> Option<Inventory> {
        let top = self.table(value, "", &["cluster", "operators", "nodes"])?;
        let cluster = self.required(&top, "cluster").and_then(|(p, v)| self.cluster(v, &p));
        let operators = match top.map.get("operators") {
            None => Some(Vec::new()),
            Some(v) => self.list(v, "operators", Self::operator),
        };
        let nodes = self.required(&top, "nodes").and_then(|(p, v)| self.nodes(v, &p));
        Some(Inventory { cluster: cluster?, operators: operators?, nodes: nodes? })
    }

    fn cluster(&mut self, value: &Value, path: &str) -> Option<Cluster> {
        let t =
            self.table(value, path, &["name", "domain", "former", "bootserver", "gateway", "dns"])?;
        let name = self.required(&t, "name").and_then(|(p, v)| self.label(v, &p));
        let domain = self.required(&t, "domain").and_then(|(p, v)| self.domain(v, &p));
        let former = self.required(&t, "former").and_then(|(p, v)| self.label(v, &p));
        let bootserver = self.required(&t, "bootserver").and_then(|(p, v)| self.bootserver(v, &p));
        let gateway = self.optional(&t, "gateway", Self::address);
        let dns = match given(&t, "dns") {
            None => Some(Vec::new()),
            Some((p, v)) => self.list(v, &p, Self::address),
        };
        Some(Cluster {
            name: name?,
            domain: domain?,
            former: former?,
            bootserver: bootserver?,
            gateway: gateway?,
            dns: dns?,
        })
    }

    fn bootserver(&mut self, value: &Value, path: &str) -> Option<Bootserver> {
        let t = self.table(value, path, &["address"])?;
        let address = self.required(&t, "address").and_then(|(p, v)| self.address(v, &p))?;
        Some(Bootserver { address })
    }

    fn operator(&mut self, value: &Value, path: &str) -> Option<Operator> {
        let t = self.table(value, path, &["name", "sshKeys"])?;
        let name = self.required(&t, "name").and_then(|(p, v)| self.label(v, &p));
        let ssh_keys =
            self.required(&t, "sshKeys").and_then(|(p, v)| self.list(v, &p, Self::ssh_key));
        Some(Operator { name: name?, ssh_keys: ssh_keys? })
    }

    fn nodes(&mut self, value: &Value, path: &str) -> Option<BTreeMap<String, Node>> {
        let Value::Object(map) = value else {
            self.wrong_type(path, "a table of nodes by name", value);
            return None;
        };
        if map.is_empty() {
            self.note(codes::EMPTY, format!("{path} is empty"), "describe at least one node");
        }
        if map.len() > MAX_NODES {
            let what = format!("{path} has {} nodes, more than {MAX_NODES}", map.len());
            self.note(codes::TOO_LARGE, what, "split the cluster");
            return None;
        }
        let mut nodes = BTreeMap::new();
        let mut whole = true;
        for (name, value) in map {
            let path = format!("{path}.{name}");
            if !is_label(name) {
                self.bad_label(&path, name);
            }
            match self.node(value, &path) {
                Some(node) => drop(nodes.insert(name.clone(), node)),
                None => whole = false,
            }
        }
        whole.then_some(nodes)
    }

    fn node(&mut self, value: &Value, path: &str) -> Option<Node> {
        const KEYS: [&str; 7] =
            ["roles", "address", "prefixLength", "macs", "serial", "disk", "process"];
        let t = self.table(value, path, &KEYS)?;
        let process = match given(&t, "process") {
            None => Some(false),
            Some((p, v)) => self.boolean(v, &p),
        };
        let is_process = process == Some(true);
        let roles = self.required(&t, "roles").and_then(|(p, v)| self.roles(v, &p));
        let address = self.required(&t, "address").and_then(|(p, v)| self.address(v, &p));
        let bits = if matches!(address, Some(IpAddr::V6(_))) { 128 } else { 32 };
        let prefix_length = match given(&t, "prefixLength") {
            None if is_process => Some(bits as u64),
            None => self.required(&t, "prefixLength").and(None),
            Some((p, v)) => self.number(v, &p, 1, bits as u64),
        };
        let macs = match given(&t, "macs") {
            None if is_process => Some(Vec::new()),
            None => self.required(&t, "macs").and(None),
            Some((p, v)) => self.list(v, &p, Self::mac),
        };
        let serial = self.optional(&t, "serial", Self::serial);
        let disk = self.optional(&t, "disk", Self::disk);
        Some(Node {
            roles: roles?,
            address: address?,
            prefix_length: u8::try_from(prefix_length?).ok()?,
            macs: macs?,
            serial: serial?,
            disk: disk?,
            process: process?,
        })
    }

    fn disk(&mut self, value: &Value, path: &str) -> Option<Disk> {
        const KEYS: [&str; 6] = ["match", "minGiB", "maxGiB", "layout", "mirror", "consentToErase"];
        let t = self.table(value, path, &KEYS)?;
        let matches = self.required(&t, "match").and_then(|(p, v)| self.disk_match(v, &p));
        let min_gib = match given(&t, "minGiB") {
            None => Some(8),
            Some((p, v)) => self.gib(v, &p),
        };
        let max_gib = self.optional(&t, "maxGiB", Self::gib);
        let layout = match given(&t, "layout") {
            None => Some(Layout::Single),
            Some((p, v)) => self.layout(v, &p),
        };
        let mirror = self.optional(&t, "mirror", Self::disk_match);
        let consent_to_erase = match given(&t, "consentToErase") {
            None => Some(Vec::new()),
            Some((p, v)) => self.list(v, &p, Self::serial),
        };
        Some(Disk {
            matches: matches?,
            min_gib: min_gib?,
            max_gib: max_gib?,
            layout: layout?,
            mirror: mirror?,
            consent_to_erase: consent_to_erase?,
        })
    }

    fn disk_match(&mut self, value: &Value, path: &str) -> Option<DiskMatch> {
        let t = self.table(value, path, &["serial", "wwn"])?;
        let serial = self.optional(&t, "serial", Self::serial);
        let wwn = self.optional(&t, "wwn", Self::serial);
        let found = DiskMatch { serial: serial?, wwn: wwn? };
        if found.serial.is_none() && found.wwn.is_none() {
            let hint = "give the disk's serial or wwn, as `lsblk -o NAME,SERIAL,WWN` shows it";
            self.note(codes::BAD_DISK, format!("{path} identifies no disk"), hint);
            return None;
        }
        Some(found)
    }

    fn gib(&mut self, value: &Value, path: &str) -> Option<u32> {
        self.number(value, path, 1, 1 << 20).and_then(|n| u32::try_from(n).ok())
    }

    fn layout(&mut self, value: &Value, path: &str) -> Option<Layout> {
        let text = self.text(value, path)?;
        let layout = Layout::ALL.into_iter().find(|l| l.name() == text);
        if layout.is_none() {
            let what = format!("{path} is {}, which is no disk layout", quoted(text));
            self.note(codes::UNKNOWN_LAYOUT, what, "use single, mirror or luks");
        }
        layout
    }

    fn roles(&mut self, value: &Value, path: &str) -> Option<Vec<Role>> {
        let mut roles = self.list(value, path, Self::role)?;
        if roles.is_empty() {
            let hint = "give at least one of control, data, compute";
            self.note(codes::EMPTY, format!("{path} is empty"), hint);
        }
        let given = roles.len();
        roles.sort();
        roles.dedup();
        if roles.len() != given {
            let what = format!("{path} names a role twice");
            self.note(codes::DUPLICATE, what, "name each role once");
        }
        Some(roles)
    }

    fn role(&mut self, value: &Value, path: &str) -> Option<Role> {
        let text = self.text(value, path)?;
        let role = Role::ALL.into_iter().find(|r| r.name() == text);
        if role.is_none() {
            let what = format!("{path} is {}, which is no role", quoted(text));
            self.note(codes::UNKNOWN_ROLE, what, "use control, data or compute");
        }
        role
    }

    fn mac(&mut self, value: &Value, path: &str) -> Option<Mac> {
        let text = self.text(value, path)?;
        let mac = Mac::parse(text);
        if mac.is_none() {
            let what = format!("{path} is {}, which is no card's MAC address", quoted(text));
            self.note(codes::BAD_MAC, what, "write it as 52:54:00:20:00:11");
        }
        mac
    }

    fn serial(&mut self, value: &Value, path: &str) -> Option<String> {
        let text = self.text(value, path)?;
        if !is_serial(text) {
            let what = format!("{path} is {}, which is no serial number", quoted(text));
            let hint = "use 1 to 128 printable characters without blanks and quotes";
            self.note(codes::BAD_NAME, what, hint);
            return None;
        }
        Some(text.to_owned())
    }

    fn ssh_key(&mut self, value: &Value, path: &str) -> Option<String> {
        let text = self.text(value, path)?;
        if !is_ssh_key(text) {
            // the text is not repeated: it may be somebody's private key
            let what = format!("{path} is no SSH public key");
            self.note(codes::BAD_SSH_KEY, what, "paste the line of your id_ed25519.pub");
            return None;
        }
        Some(text.to_owned())
    }

    fn address(&mut self, value: &Value, path: &str) -> Option<IpAddr> {
        let text = self.text(value, path)?;
        let usable = |a: &IpAddr| {
            let broadcast = matches!(a, IpAddr::V4(v4) if v4.is_broadcast());
            !(a.is_unspecified() || a.is_multicast() || broadcast)
        };
        let address = text.parse::<IpAddr>().ok().filter(usable);
        if address.is_none() {
            let what = format!("{path} is {}, which is no host's address", quoted(text));
            self.note(codes::BAD_ADDRESS, what, "write an IPv4 or IPv6 address without a prefix");
        }
        address
    }

    fn label(&mut self, value: &Value, path: &str) -> Option<String> {
        let text = self.text(value, path)?;
        if !is_label(text) {
            self.bad_label(path, text);
            return None;
        }
        Some(text.to_owned())
    }

    fn domain(&mut self, value: &Value, path: &str) -> Option<String> {
        let text = self.text(value, path)?;
        if !is_domain(text) {
            let what = format!("{path} is {}, which is no DNS name", quoted(text));
            self.note(codes::BAD_NAME, what, "use lower-case labels with dots between");
            return None;
        }
        Some(text.to_owned())
    }

    fn bad_label(&mut self, path: &str, text: &str) {
        let what = format!("{path} is named {}, which is no DNS label", quoted(text));
        let hint = "use 1 to 63 of a-z, 0-9 and inner hyphens";
        self.note(codes::BAD_NAME, what, hint);
    }

    // the shapes of JSON

    fn table<'a>(&mut self, value: &'a Value, path: &str, keys: &[&str]) -> Option<Table<'a>> {
        let Value::Object(map) = value else {
            self.wrong_type(path, "a table", value);
            return None;
        };
        let table = Table { path: path.to_owned(), map };
        for key in map.keys().filter(|k| !keys.contains(&k.as_str())) {
            let what = format!("unknown key {}", quoted(&table.at(key)));
            let hint = match settings::nearest(key, keys.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("remove it; known here: {}", keys.join(", ")),
            };
            self.note(codes::UNKNOWN_KEY, what, hint);
        }
        Some(table)
    }

    fn required<'a>(&mut self, table: &Table<'a>, key: &str) -> Option<(String, &'a Value)> {
        let found = given(table, key);
        if found.is_none() {
            let hint = "add it in nodes/cluster.nix";
            self.note(codes::MISSING_KEY, format!("{} is missing", table.at(key)), hint);
        }
        found
    }

    /// `None` when the value is there and wrong.
    fn optional<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        read: fn(&mut Self, &Value, &str) -> Option<T>,
    ) -> Option<Option<T>> {
        match given(table, key) {
            None => Some(None),
            Some((path, value)) => read(self, value, &path).map(Some),
        }
    }

    fn list<T>(
        &mut self,
        value: &Value,
        path: &str,
        read: fn(&mut Self, &Value, &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(values) = value else {
            self.wrong_type(path, "a list", value);
            return None;
        };
        if values.len() > MAX_LIST {
            let what = format!("{path} has {} entries, more than {MAX_LIST}", values.len());
            self.note(codes::TOO_LARGE, what, "shorten the list");
            return None;
        }
        let read: Vec<Option<T>> = values
            .iter()
            .enumerate()
            .map(|(i, v)| read(self, v, &format!("{path}[{i}]")))
            .collect();
        read.into_iter().collect()
    }

    fn text<'a>(&mut self, value: &'a Value, path: &str) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(path, "a text", value);
        }
        text
    }

    fn boolean(&mut self, value: &Value, path: &str) -> Option<bool> {
        let boolean = value.as_bool();
        if boolean.is_none() {
            self.wrong_type(path, "true or false", value);
        }
        boolean
    }

    fn number(&mut self, value: &Value, path: &str, min: u64, max: u64) -> Option<u64> {
        let Value::Number(number) = value else {
            self.wrong_type(path, "a whole number", value);
            return None;
        };
        let within = number.as_u64().filter(|n| (min..=max).contains(n));
        if within.is_none() {
            let what = format!("{path} is {number}, outside {min} to {max}");
            self.note(codes::OUT_OF_RANGE, what, format!("use a whole number from {min} to {max}"));
        }
        within
    }

    fn wrong_type(&mut self, path: &str, wants: &str, got: &Value) {
        let path = if path.is_empty() { "the inventory" } else { path };
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a table",
        };
        self.note(codes::WRONG_TYPE, format!("{path} is {got}"), format!("it must be {wants}"));
    }
}

/// The value, unless it is absent or null: Nix writes `null` for an option that is not set.
fn given<'a>(table: &Table<'a>, key: &str) -> Option<(String, &'a Value)> {
    table.map.get(key).filter(|v| !v.is_null()).map(|v| (table.at(key), v))
}

/// For a message: quoted, and cut when long.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}
