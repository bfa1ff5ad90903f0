//! What a certificate says.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::key::{hex, sha256_hex};
use crate::spiffe::shown;
use crate::{IdentityError, SpiffeId, is_label};

/// A name or an address under which a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl FromStr for San {
    type Err = IdentityError;

    /// An address if it is one, else a DNS name in lower case.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if let Ok(ip) = text.parse() {
            return Ok(San::Ip(ip));
        }
        if text.len() <= 253 && text.split('.').all(is_label) {
            return Ok(San::Dns(text.to_owned()));
        }
        Err(IdentityError::Name { what: "DNS name", name: shown(text) })
    }
}

impl From<IpAddr> for San {
    fn from(ip: IpAddr) -> Self {
        San::Ip(ip)
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            San::Dns(name) => f.write_str(name),
            San::Ip(ip) => ip.fmt(f),
        }
    }
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// Whose it is, if it is one of ours.
    pub spiffe: Option<SpiffeId>,
    /// Where its owner is reached.
    pub sans: Vec<San>,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
    /// Serial number in hex.
    pub serial: String,
    /// SHA-256 of its public key, in hex.
    pub public_key_hash: String,
    /// Whether it may sign others.
    pub is_ca: bool,
}

impl CertInfo {
    /// Whether it is time to renew: two thirds of its life are over.
    pub fn due(&self, now: OffsetDateTime) -> bool {
        now >= self.not_before + (self.not_after - self.not_before) * 2 / 3
    }
}

/// Reads the first certificate of a PEM text.
pub fn describe_cert(pem: &str) -> Result<CertInfo, IdentityError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| IdentityError::Certificate(e.to_string()))?;
    describe_cert_der(&der)
}

/// The id of a certificate: its only URI name, if that is an id of ours.
pub fn spiffe_of_cert_der(der: &[u8]) -> Option<SpiffeId> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let mut uris = uris(&cert);
    let id = uris.next()?.parse().ok()?;
    uris.next().is_none().then_some(id)
}

/// The common name of a certificate's subject, if it has exactly one.
pub fn common_name_of_cert_der(der: &[u8]) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let mut names = cert.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

/// SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), in hex.
pub fn public_key_hash_of_cert_der(der: &[u8]) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    Some(sha256_hex(cert.public_key().raw))
}

/// Reads a certificate in DER.
pub fn describe_cert_der(der: &[u8]) -> Result<CertInfo, IdentityError> {
    let (_, cert) =
        X509Certificate::from_der(der).map_err(|e| IdentityError::Certificate(e.to_string()))?;
    let mut sans = Vec::new();
    for name in general_names(&cert) {
        match name {
            GeneralName::DNSName(name) => sans.push(San::Dns((*name).to_owned())),
            GeneralName::IPAddress(bytes) => sans.extend(address(bytes).map(San::Ip)),
            _ => {}
        }
    }
    Ok(CertInfo {
        spiffe: spiffe_of_cert_der(der),
        sans,
        not_before: cert.validity().not_before.to_datetime(),
        not_after: cert.validity().not_after.to_datetime(),
        serial: hex(cert.raw_serial()),
        public_key_hash: sha256_hex(cert.public_key().raw),
        is_ca: cert.is_ca(),
    })
}

/// The cluster of a CA certificate: its only URI name, `spiffe://<cluster>`.
pub(crate) fn cluster_of_ca(pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    let cluster = uris(&cert).next()?.strip_prefix("spiffe://")?;
    is_label(cluster).then(|| cluster.to_owned())
}

fn general_names<'a>(cert: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let names = cert.subject_alternative_name().ok().flatten();
    names.into_iter().flat_map(|extension| extension.value.general_names.iter())
}

fn uris<'a>(cert: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    general_names(cert).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
