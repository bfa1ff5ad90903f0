//! What can go wrong with keys, certificates and their files.

use std::path::PathBuf;

use fault::{Fault, Kind};

use crate::codes;

/// What can go wrong with keys, certificates and their files.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{} cannot be {action}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A key cannot be parsed.
    #[error("key cannot be parsed: {0}")]
    Key(String),
    /// A certificate cannot be parsed.
    #[error("certificate cannot be parsed: {0}")]
    Certificate(String),
    /// A signing request is malformed, or its signature is wrong.
    #[error("signing request refused: {0}")]
    Request(String),
    /// A signing request asks for more than it may have.
    #[error("signing request for {id} asks for {asks}")]
    RequestAsks {
        /// The id that was to be certified.
        id: String,
        /// What it asks for.
        asks: String,
    },
    /// There is a CA already.
    #[error("{} holds a certificate authority already", .0.display())]
    CaExists(PathBuf),
    /// The CA's files do not belong together.
    #[error("certificate authority in {} cannot be used: {why}", path.display())]
    CaBroken {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A name is malformed.
    #[error("{what} {name:?} is not a valid name")]
    Name {
        /// What it names.
        what: &'static str,
        /// The text.
        name: String,
    },
    /// An id of another cluster.
    #[error("{id} is not of cluster {cluster}")]
    Cluster {
        /// The id.
        id: String,
        /// The CA's cluster.
        cluster: String,
    },
    /// The CA expired.
    #[error("certificate authority expired at {0}")]
    CaExpired(String),
    /// Random bytes or a signature could not be made.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

impl From<IdentityError> for Fault {
    fn from(error: IdentityError) -> Self {
        use IdentityError as E;
        let (code, kind, hint) = match &error {
            E::File { .. } => {
                (codes::FILE, Kind::Precondition, "check the path, its owner and its permissions")
            }
            E::Key(_) => (codes::KEY, Kind::Invalid, "give a PKCS#8 key in PEM (ECDSA P-256)"),
            E::Certificate(_) => {
                (codes::CERTIFICATE, Kind::Invalid, "give a certificate in PEM, or enrol again")
            }
            E::Request(_) => (codes::REQUEST, Kind::Invalid, "make a new request with its own key"),
            E::RequestAsks { .. } => {
                (codes::REQUEST_ASKS, Kind::Denied, "make a request without extensions")
            }
            E::CaExists(_) => (codes::CA_EXISTS, Kind::Exists, "use it, or choose an empty folder"),
            E::CaBroken { .. } => {
                (codes::CA_BROKEN, Kind::Corrupt, "restore ca.pem and ca-key.pem from a backup")
            }
            E::Name { .. } => (
                codes::NAME,
                Kind::Invalid,
                "use lower-case letters, digits and inner dashes, at most 63 of them",
            ),
            E::Cluster { .. } => (codes::CLUSTER, Kind::Denied, "ask that cluster's authority"),
            E::CaExpired(_) => (codes::CA_EXPIRED, Kind::Precondition, "rotate the cluster's CA"),
            E::Crypto(_) => (codes::CRYPTO, Kind::Internal, "try again"),
        };
        Fault::new(code, kind, error.to_string(), hint)
    }
}
