//! What the authority signs verifies, and what it must not sign it refuses.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use identity::{
    Authority, IdentityError, KeyPair, LEAF_TTL, San, SpiffeId, describe_cert, spiffe_of_cert_der,
};
use rcgen::{CertificateParams, IsCa};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use time::OffsetDateTime;

struct World {
    dir: tempfile::TempDir,
    ca: Authority,
    key: KeyPair,
    id: SpiffeId,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create("plasma", dir.path()).unwrap();
    let id = SpiffeId::service("plasma", "chainfire", "node01").unwrap();
    World { dir, ca, key: KeyPair::create().unwrap(), id }
}

impl World {
    fn sans(&self) -> Vec<San> {
        vec!["127.0.1.1".parse().unwrap(), "node01.plasma.internal".parse().unwrap()]
    }

    fn sign(&self) -> String {
        let csr = self.key.csr_pem().unwrap();
        self.ca.sign(&csr, &self.id, &self.sans(), LEAF_TTL).unwrap()
    }
}

fn roots(pem: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der(pem)).unwrap();
    Arc::new(roots)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn as_server(ca: &str, cert: &str, name: &str) -> Result<(), Error> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(ca), provider()).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&der(cert), &[], &name, &[], UnixTime::now()).map(|_| ())
}

fn as_client(ca: &str, cert: &str) -> Result<(), Error> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build().unwrap();
    verifier.verify_client_cert(&der(cert), &[], UnixTime::now()).map(|_| ())
}

#[test]
fn a_signed_certificate_verifies_as_server_and_as_client() {
    let world = world();
    let cert = world.sign();
    let ca = world.ca.ca_pem();
    for name in ["127.0.1.1", "node01.plasma.internal"] {
        as_server(ca, &cert, name).unwrap();
    }
    as_client(ca, &cert).unwrap();
    for name in ["127.0.1.2", "node02.plasma.internal", "plasma.internal"] {
        let error = as_server(ca, &cert, name).unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{name}: {error}");
    }
    let other_dir = tempfile::tempdir().unwrap();
    let other = Authority::create("plasma", other_dir.path()).unwrap();
    let error = as_client(other.ca_pem(), &cert).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            )
        ),
        "{error:?}"
    );
}

#[test]
fn a_certificate_says_whose_it_is_and_how_long() {
    let world = world();
    let info = describe_cert(&world.sign()).unwrap();
    let now = OffsetDateTime::now_utc();
    assert_eq!(info.spiffe.as_ref(), Some(&world.id));
    assert_eq!(spiffe_of_cert_der(&der(&world.sign())), Some(world.id.clone()));
    assert_eq!(info.public_key_hash, world.key.public_key_hash());
    assert!(!info.is_ca);
    let mut sans = info.sans.clone();
    sans.sort();
    let mut expected = world.sans();
    expected.sort();
    assert_eq!(sans, expected);
    let back = now - info.not_before;
    assert!(back >= Duration::from_secs(290) && back <= Duration::from_secs(310), "{back}");
    assert!((info.not_after - now) > time::Duration::days(89));
    assert!(!info.due(now) && info.due(now + time::Duration::days(61)));
    assert_ne!(info.serial, describe_cert(&world.sign()).unwrap().serial);
    assert_eq!(info.serial.len(), 32);
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let world = world();
    let csr = world.key.csr_pem().unwrap();
    let long = Duration::from_secs(100 * 365 * 24 * 3600);
    let cert = world.ca.sign(&csr, &world.id, &[], long).unwrap();
    let ca_end = describe_cert(world.ca.ca_pem()).unwrap().not_after;
    assert_eq!(describe_cert(&cert).unwrap().not_after, ca_end);
}

#[test]
fn an_authority_is_the_same_after_loading() {
    let world = world();
    let dir = world.dir.path();
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));
    let loaded = Authority::load(dir).unwrap();
    assert_eq!(loaded.ca_pem(), world.ca.ca_pem());
    assert_eq!(loaded.cluster(), "plasma");
    assert_eq!(loaded.public_key_hash(), world.ca.public_key_hash());
    let csr = world.key.csr_pem().unwrap();
    let cert = loaded.sign(&csr, &world.id, &world.sans(), LEAF_TTL).unwrap();
    as_server(world.ca.ca_pem(), &cert, "127.0.1.1").unwrap();
    assert!(matches!(Authority::create("plasma", dir), Err(IdentityError::CaExists(_))));
}

#[test]
fn a_crash_before_the_certificate_is_no_dead_end() {
    let dir = tempfile::tempdir().unwrap();
    KeyPair::create().unwrap().save(&dir.path().join("ca-key.pem")).unwrap();
    assert!(!Authority::exists(dir.path()));
    Authority::create("plasma", dir.path()).unwrap();
    assert!(Authority::exists(dir.path()));
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let world = world();
    let dir = world.dir.path();
    KeyPair::create().unwrap().save(&dir.join("ca-key.pem")).unwrap();
    assert!(matches!(Authority::load(dir), Err(IdentityError::CaBroken { .. })));
    // A leaf in the place of the CA.
    std::fs::write(dir.join("ca.pem"), world.sign()).unwrap();
    world.key.save(&dir.join("ca-key.pem")).unwrap();
    assert!(matches!(Authority::load(dir), Err(IdentityError::CaBroken { .. })));
    std::fs::write(dir.join("ca.pem"), "garbage").unwrap();
    assert!(matches!(Authority::load(dir), Err(IdentityError::Certificate(_))));
    std::fs::remove_file(dir.join("ca.pem")).unwrap();
    assert!(matches!(Authority::load(dir), Err(IdentityError::File { .. })));
    assert!(matches!(Authority::create("Not A Label", dir), Err(IdentityError::Name { .. })));
}

#[test]
fn what_a_request_asks_for_beyond_its_grant_is_refused() {
    let world = world();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.serialize_request(&key).unwrap().pem().unwrap()
    };
    let sign = |csr: &str| world.ca.sign(csr, &world.id, &world.sans(), LEAF_TTL);

    let greedy = request(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(matches!(sign(&greedy), Err(IdentityError::RequestAsks { .. })));
    for name in ["evil.internal", "127.0.1.9"] {
        let csr = request(&|params| {
            params.subject_alt_names =
                CertificateParams::new(vec![name.to_owned()]).unwrap().subject_alt_names;
        });
        let error = sign(&csr).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let impostor = request(&|params| {
        let uri = "spiffe://plasma/operator/admin".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    });
    assert!(sign(&impostor).unwrap_err().to_string().contains("operator/admin"));
    // Asking for exactly what is granted is fine.
    let modest = request(&|params| {
        params.subject_alt_names =
            CertificateParams::new(vec!["127.0.1.1".to_owned()]).unwrap().subject_alt_names;
    });
    sign(&modest).unwrap();
}

#[test]
fn a_request_must_be_whole_and_signed_by_its_key() {
    let world = world();
    let csr = world.key.csr_pem().unwrap();
    let sign = |csr: &str| world.ca.sign(csr, &world.id, &[], LEAF_TTL);
    for bad in [
        "",
        "garbage",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(matches!(sign(bad), Err(IdentityError::Request(_))), "{bad:?}");
    }
    assert!(matches!(sign(&"x".repeat(100_000)), Err(IdentityError::Request(_))));

    // The signature covers the key and the names. The few bits outside it (the wrapper's own form)
    // that may be flipped change nothing of what is signed.
    let der =
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
    let mut accepted = 0;
    for at in 0..der.len() {
        let mut bytes = der.to_vec();
        bytes[at] ^= 1;
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        );
        if let Ok(cert) = sign(&pem) {
            accepted += 1;
            let hash = describe_cert(&cert).unwrap().public_key_hash;
            assert_eq!(hash, world.key.public_key_hash(), "byte {at}");
        }
    }
    assert!(accepted <= 4, "{accepted} of {} flipped bits went unnoticed", der.len());

    let elsewhere = SpiffeId::node("other", "node01").unwrap();
    let error = world.ca.sign(&csr, &elsewhere, &[], LEAF_TTL).unwrap_err();
    assert!(matches!(error, IdentityError::Cluster { .. }), "{error}");
}

#[test]
fn a_damaged_certificate_is_read_or_refused_but_never_a_panic() {
    let world = world();
    let whole = der(&world.sign()).to_vec();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            let _ = spiffe_of_cert_der(&damaged);
            let _ = identity::public_key_hash_of_cert_der(&damaged);
        }
        assert_eq!(spiffe_of_cert_der(&whole[..at]), None, "cut after {at} bytes");
    }
}
