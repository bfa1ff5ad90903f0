//! Who somebody is: `spiffe://<cluster>/node/<node>`, `…/svc/<service>/<node>`, `…/operator/<name>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::IdentityError;

/// An identity of the cluster. All names are DNS labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpiffeId {
    /// A machine.
    Node {
        /// The cluster (SPIFFE's trust domain).
        cluster: String,
        /// Its name in the inventory.
        node: String,
    },
    /// A service's process on a machine.
    Service {
        /// The cluster.
        cluster: String,
        /// The service: `chainfire`.
        service: String,
        /// The machine that it runs on.
        node: String,
    },
    /// A person who runs the cluster.
    Operator {
        /// The cluster.
        cluster: String,
        /// Their name.
        name: String,
    },
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// The id of a machine.
    pub fn node(cluster: &str, node: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{cluster}/node/{node}").parse()
    }

    /// The id of a service's process.
    pub fn service(cluster: &str, service: &str, node: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{cluster}/svc/{service}/{node}").parse()
    }

    /// The id of a person.
    pub fn operator(cluster: &str, name: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{cluster}/operator/{name}").parse()
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        match self {
            Self::Node { cluster, .. }
            | Self::Service { cluster, .. }
            | Self::Operator { cluster, .. } => cluster,
        }
    }

    /// The machine, if this is one or runs on one.
    pub fn node_name(&self) -> Option<&str> {
        match self {
            Self::Node { node, .. } | Self::Service { node, .. } => Some(node),
            Self::Operator { .. } => None,
        }
    }

    /// A short name for people: the certificate's common name.
    pub fn common_name(&self) -> String {
        match self {
            Self::Node { node, .. } => node.clone(),
            Self::Service { service, node, .. } => format!("{service}@{node}"),
            Self::Operator { name, .. } => name.clone(),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cluster, node } => write!(f, "{SCHEME}{cluster}/node/{node}"),
            Self::Service { cluster, service, node } => {
                write!(f, "{SCHEME}{cluster}/svc/{service}/{node}")
            }
            Self::Operator { cluster, name } => write!(f, "{SCHEME}{cluster}/operator/{name}"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Name { what: "SPIFFE id", name: shown(text) };
        let path = text.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let parts: Vec<&str> = path.split('/').collect();
        if !parts.iter().all(|part| is_label(part)) {
            return Err(malformed());
        }
        let own = |part: &str| part.to_owned();
        match parts.as_slice() {
            [cluster, "node", node] => Ok(Self::Node { cluster: own(cluster), node: own(node) }),
            [cluster, "svc", service, node] => {
                Ok(Self::Service { cluster: own(cluster), service: own(service), node: own(node) })
            }
            [cluster, "operator", name] => {
                Ok(Self::Operator { cluster: own(cluster), name: own(name) })
            }
            _ => Err(malformed()),
        }
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text is a DNS label in lower case: 1 to 63 letters, digits and inner dashes.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A text from outside, cut for messages.
pub(crate) fn shown(text: &str) -> String {
    text[..text.floor_char_boundary(128)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_read_as_they_are_written() {
        for text in [
            "spiffe://plasma/node/node01",
            "spiffe://plasma/svc/chainfire/node01",
            "spiffe://0190b0a2-7c1e-7000-8000-000000000000/operator/admin",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "spiffe://",
            "spiffe://plasma",
            "spiffe://plasma/node",
            "spiffe://plasma/node/",
            "spiffe://plasma/node/a/b",
            "spiffe://plasma/node/Node01",
            "spiffe://plasma/node/-a",
            "spiffe://plasma/user/a",
            "spiffe://plasma/svc/chainfire",
            "spiffe://plasma//node/a",
            "https://plasma/node/a",
            "SPIFFE://plasma/node/a",
            "spiffe://plasma/node/a?x",
            "spiffe://plasma/node/a#x",
            "spiffe://pl%61sma/node/a",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<SpiffeId>();
        }

        #[test]
        fn names_cannot_smuggle_a_path(name in "[a-z/.%-]{1,12}") {
            if let Ok(id) = SpiffeId::operator("plasma", &name) {
                prop_assert_eq!(id.to_string(), format!("spiffe://plasma/operator/{name}"));
                prop_assert!(is_label(&name));
            }
        }
    }
}
