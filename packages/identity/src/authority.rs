//! The certificate authority of a cluster: one key, one self-signed certificate, in one folder.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;

use crate::certificate::cluster_of_ca;
use crate::key::{parse_csr, sha256_hex};
use crate::{IdentityError, KeyPair, San, SpiffeId, describe_cert, file, is_label};

/// The life of a leaf certificate.
pub const LEAF_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// The life of the CA.
pub const CA_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from this long ago: clocks of one cluster differ.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

const CERT_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca-key.pem";

/// The certificate authority of a cluster. Its key stays in its folder, mode 0600.
pub struct Authority {
    cluster: String,
    pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.cluster)
    }
}

impl Authority {
    /// Makes the CA of a new cluster. The certificate is written last: a folder with `ca.pem` is
    /// complete, and a crash before it is no obstacle to making it again.
    pub fn create(cluster: &str, dir: &Path) -> Result<Self, IdentityError> {
        if !is_label(cluster) {
            return Err(IdentityError::Name { what: "cluster", name: cluster.to_owned() });
        }
        let (cert, key) = paths(dir);
        if cert.exists() {
            return Err(IdentityError::CaExists(dir.to_owned()));
        }
        std::fs::create_dir_all(dir).map_err(|source| IdentityError::File {
            path: dir.to_owned(),
            action: "created",
            source,
        })?;
        let pair = KeyPair::create()?;
        pair.save(&key)?;
        let now = OffsetDateTime::now_utc();
        let pem = ca_params(cluster, now)?
            .self_signed(&pair.inner)
            .map_err(|e| IdentityError::Crypto(e.to_string()))?
            .pem();
        file::write_file(&cert, pem.as_bytes(), 0o644)?;
        Self::load(dir)
    }

    /// Opens the CA of a folder, after checking that its files belong together.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (cert, key) = paths(dir);
        let broken = |why: &str| IdentityError::CaBroken { path: dir.to_owned(), why: why.into() };
        let pem = file::read_text(&cert)?;
        let pair = KeyPair::load(&key)?;
        let info = describe_cert(&pem)?;
        let cluster = cluster_of_ca(&pem).ok_or_else(|| broken("it names no cluster"))?;
        if !info.is_ca {
            return Err(broken("its certificate may not sign others"));
        }
        if info.public_key_hash != pair.public_key_hash() {
            return Err(broken("its key and its certificate do not belong together"));
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, pair.inner)
            .map_err(|e| IdentityError::Certificate(e.to_string()))?;
        Ok(Self { cluster, pem, not_after: info.not_after, issuer })
    }

    /// Whether a folder holds a complete CA.
    pub fn exists(dir: &Path) -> bool {
        paths(dir).0.exists()
    }

    /// The cluster whose CA this is.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the CA's public key, in hex: short enough to be compared or pinned.
    pub fn public_key_hash(&self) -> String {
        sha256_hex(&self.issuer.key().subject_public_key_info())
    }

    /// Certifies the key of a request as `id`, reachable under `sans`, for `ttl` from now (never
    /// longer than the CA itself lives). The names are the caller's decision; a request that asks
    /// for others is refused, so that a mistaken or hostile one is noticed.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        sans: &[San],
        ttl: Duration,
    ) -> Result<String, IdentityError> {
        let now = OffsetDateTime::now_utc();
        self.sign_between(csr_pem, id, sans, now - BACKDATE, now + ttl)
    }

    /// [`Authority::sign`] with the window of validity given.
    pub fn sign_between(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        sans: &[San],
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<String, IdentityError> {
        if id.cluster() != self.cluster {
            return Err(IdentityError::Cluster {
                id: id.to_string(),
                cluster: self.cluster.clone(),
            });
        }
        if self.not_after <= OffsetDateTime::now_utc() {
            return Err(IdentityError::CaExpired(self.not_after.to_string()));
        }
        let mut names = vec![SanType::URI(ia5(&id.to_string())?)];
        for san in sans {
            names.push(san_type(san)?);
        }
        let request = parse_csr(csr_pem)?;
        check_request(&request.params, id, &names)?;

        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&id.common_name());
        params.subject_alt_names = names;
        params.serial_number = Some(random_serial()?);
        params.not_before = not_before;
        params.not_after = not_after.min(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|e| IdentityError::Crypto(e.to_string()))?;
        Ok(signed.pem())
    }
}

/// A request may be silent about names or repeat the ones it gets; nothing more.
fn check_request(
    asked: &CertificateParams,
    id: &SpiffeId,
    granted: &[SanType],
) -> Result<(), IdentityError> {
    let refuse = |asks: String| Err(IdentityError::RequestAsks { id: id.to_string(), asks });
    if !matches!(asked.is_ca, IsCa::NoCa | IsCa::ExplicitNoCa) {
        return refuse("the right to sign others".to_owned());
    }
    if let Some(name) = asked.subject_alt_names.iter().find(|name| !granted.contains(name)) {
        return refuse(match name {
            SanType::DnsName(name) => format!("the DNS name {:?}", name.as_str()),
            SanType::URI(uri) => format!("the id {:?}", uri.as_str()),
            SanType::IpAddress(ip) => format!("the address {ip}"),
            _ => "a name of another kind".to_owned(),
        });
    }
    Ok(())
}

fn ca_params(cluster: &str, now: OffsetDateTime) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("{cluster} cluster CA"));
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{cluster}"))?)];
    params.serial_number = Some(random_serial()?);
    params.not_before = now - BACKDATE;
    params.not_after = now + CA_TTL;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    // X.509 allows 64 characters; the name is for people only, ids stand in the SAN.
    let name = &name[..name.floor_char_boundary(64)];
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// 128 random bits: two certificates never share a number. The first bit is clear, as the number
/// must be positive, and the second set, so that its length is fixed.
fn random_serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| IdentityError::Crypto("no randomness".to_owned()))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn san_type(san: &San) -> Result<SanType, IdentityError> {
    Ok(match san {
        San::Dns(name) => SanType::DnsName(ia5(name)?),
        San::Ip(ip) => SanType::IpAddress(*ip),
    })
}

fn ia5(text: &str) -> Result<Ia5String, IdentityError> {
    Ia5String::try_from(text)
        .map_err(|_| IdentityError::Name { what: "name", name: text.to_owned() })
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join(CERT_FILE), dir.join(KEY_FILE))
}
