//! Reading and judging the files of an identity, each mistake under its own code.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fault::{Fault, Kind};
use identity::TlsFiles;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

use crate::codes;

/// Certificates and keys are small.
const FILE_MAX: u64 = 1 << 20;

/// The one crypto provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

/// A file as it was when it was looked at: size, inode and time of change.
pub(crate) type Stamp = Option<(u64, u64, SystemTime)>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.ino(), meta.modified().ok()?))
}

/// The cluster's CA.
pub(crate) fn read_roots(path: &Path) -> Result<Arc<RootCertStore>, Fault> {
    let unusable = |why: String| {
        Fault::new(
            codes::TLS_CA,
            Kind::Precondition,
            format!("{} holds no usable CA certificate: {why}", path.display()),
            "put the cluster's ca.pem there",
        )
    };
    let mut roots = RootCertStore::empty();
    for cert in read_certs(path)? {
        roots.add(cert).map_err(|e| unusable(e.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// Certificate and key, known to belong together and to be valid now under the CA.
pub(crate) fn read_identity(
    files: &TlsFiles,
    roots: &Arc<RootCertStore>,
) -> Result<Arc<CertifiedKey>, Fault> {
    let chain = read_certs(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|e| not_pem(&files.key, "a private key", &e.to_string()))?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|e| not_pem(&files.key, "a usable private key", &e.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
        certified.keys_match()
    {
        return Err(Fault::new(
            codes::TLS_KEY,
            Kind::Precondition,
            format!(
                "key {} does not belong to certificate {}",
                files.key.display(),
                files.cert.display()
            ),
            "use the two files that were made together, or enrol again",
        ));
    }
    check_chain(&certified.cert, files, roots)?;
    Ok(Arc::new(certified))
}

fn check_chain(
    chain: &[CertificateDer<'static>],
    files: &TlsFiles,
    roots: &Arc<RootCertStore>,
) -> Result<(), Fault> {
    let (leaf, intermediates) =
        chain.split_first().ok_or_else(|| not_pem(&files.cert, "a certificate", "it is empty"))?;
    let verifier = client_verifier(roots, true, &files.ca)?;
    let Err(error) = verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) else {
        return Ok(());
    };
    let cert = files.cert.display();
    let until = until(&files.cert);
    use CertificateError as C;
    let (code, what, hint) = match &error {
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => (
            codes::TLS_EXPIRED,
            format!("certificate {cert} expired{until}"),
            "enrol again, and check this machine's clock",
        ),
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => (
            codes::TLS_EARLY,
            format!("certificate {cert} is not valid yet"),
            "check this machine's clock",
        ),
        _ => (
            codes::TLS_CHAIN,
            format!("certificate {cert} does not verify under {}: {error}", files.ca.display()),
            "use the CA of the cluster that signed it, or enrol again",
        ),
    };
    Err(Fault::new(code, Kind::Precondition, what, hint))
}

pub(crate) fn client_verifier(
    roots: &Arc<RootCertStore>,
    required: bool,
    ca: &Path,
) -> Result<Arc<dyn ClientCertVerifier>, Fault> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|e| {
        Fault::new(
            codes::TLS_CA,
            Kind::Precondition,
            format!("{} holds no usable CA certificate: {e}", ca.display()),
            "put the cluster's ca.pem there",
        )
    })
}

fn until(cert: &Path) -> String {
    let info =
        std::fs::read_to_string(cert).ok().and_then(|pem| identity::describe_cert(&pem).ok());
    info.map(|info| format!(" at {}", info.not_after)).unwrap_or_default()
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| not_pem(path, "a certificate", &e.to_string()))?;
    if certs.is_empty() {
        return Err(not_pem(path, "a certificate", "there is none in it"));
    }
    Ok(certs)
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let fail = |why: String| {
        Fault::new(
            codes::TLS_FILE,
            Kind::Precondition,
            format!("TLS file {} cannot be read: {why}", path.display()),
            "check the path in [tls] and that this process may read it",
        )
    };
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > FILE_MAX {
        return Err(fail(format!("{size} bytes are too many")));
    }
    std::fs::read(path).map_err(|e| fail(e.to_string()))
}

fn not_pem(path: &Path, wanted: &str, why: &str) -> Fault {
    Fault::new(
        codes::TLS_PEM,
        Kind::Precondition,
        format!("{} does not hold {wanted} in PEM: {why}", path.display()),
        "check that the [tls] paths are not mixed up and the file is whole",
    )
}
