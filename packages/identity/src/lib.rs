//! The cluster's CA, certificates with SPIFFE ids, and join tokens.
//!
//! Every process has a key that was made where it runs and never leaves; the [`Authority`] signs a
//! request for it under an id that the caller of [`Authority::sign`] decides, never the request.
//! Files and pure state only: no network here.

mod authority;
mod certificate;
pub mod codes;
mod error;
mod file;
mod key;
mod spiffe;
mod token;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use authority::{Authority, BACKDATE, CA_TTL, LEAF_TTL};
pub use certificate::{
    CertInfo, San, common_name_of_cert_der, describe_cert, describe_cert_der,
    public_key_hash_of_cert_der, spiffe_of_cert_der,
};
pub use error::IdentityError;
pub use file::write_file;
pub use key::{KeyPair, public_key_hash_of_csr};
pub use spiffe::{SpiffeId, is_label};
pub use token::{Minted, Spending, TokenBook, TokenError, TokenInfo, TokenState};

/// The files of a process's identity: the table `[tls]` of every service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate, then any intermediates, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The cluster's CA, in PEM.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// `cert.pem`, `key.pem` and `ca.pem` of a folder.
    pub fn in_dir(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        Self { cert: dir.join("cert.pem"), key: dir.join("key.pem"), ca: dir.join("ca.pem") }
    }
}
