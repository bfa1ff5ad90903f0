//! A private key, made where it is used.

use std::fmt;
use std::path::Path;

use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, PublicKeyData};
use ring::digest::{SHA256, digest};

use crate::{IdentityError, file};

/// An ECDSA P-256 key. Debug never prints it.
pub struct KeyPair {
    pub(crate) inner: rcgen::KeyPair,
}

impl KeyPair {
    /// A new key from the system's randomness.
    pub fn create() -> Result<Self, IdentityError> {
        let inner = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|e| IdentityError::Crypto(e.to_string()))?;
        Ok(Self { inner })
    }

    /// Reads a key from PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let inner = rcgen::KeyPair::from_pem(pem).map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(Self { inner })
    }

    /// Reads a key from a file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&file::read_text(path)?)
    }

    /// Writes the key, readable by its owner only.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        file::write_file(path, self.pem().as_bytes(), 0o600)
    }

    /// The private key in PEM: for its file, never for a log.
    pub fn pem(&self) -> String {
        self.inner.serialize_pem()
    }

    /// A signing request for this key. It asks for nothing: the authority decides the names.
    pub fn csr_pem(&self) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(&self.inner)
            .and_then(|request| request.pem())
            .map_err(|e| IdentityError::Crypto(e.to_string()))
    }

    /// SHA-256 of the public key (its SubjectPublicKeyInfo), in hex: the name of this key.
    pub fn public_key_hash(&self) -> String {
        sha256_hex(&self.inner.subject_public_key_info())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", &self.public_key_hash()[..16])
    }
}

/// The public key hash of a signing request; the request's own signature is verified.
pub fn public_key_hash_of_csr(csr_pem: &str) -> Result<String, IdentityError> {
    Ok(sha256_hex(&parse_csr(csr_pem)?.public_key.subject_public_key_info()))
}

/// Parses a request and verifies that its sender has the key.
pub(crate) fn parse_csr(csr_pem: &str) -> Result<CertificateSigningRequestParams, IdentityError> {
    const CSR_MAX: usize = 64 << 10;
    if csr_pem.len() > CSR_MAX {
        return Err(IdentityError::Request(format!("longer than {CSR_MAX} bytes")));
    }
    CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|e| IdentityError::Request(e.to_string()))
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_keeps_its_name_over_file_and_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = KeyPair::create().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = KeyPair::load(&path).unwrap();
        assert_eq!(again.public_key_hash(), key.public_key_hash());
        let csr = key.csr_pem().unwrap();
        assert_eq!(public_key_hash_of_csr(&csr).unwrap(), key.public_key_hash());
        assert_ne!(KeyPair::create().unwrap().public_key_hash(), key.public_key_hash());
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert!(matches!(KeyPair::load(&path), Err(IdentityError::File { .. })));
        std::fs::write(&path, "garbage").unwrap();
        assert!(matches!(KeyPair::load(&path), Err(IdentityError::Key(_))));
    }
}
