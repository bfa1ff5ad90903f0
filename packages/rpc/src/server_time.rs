//! The time as a server of the cluster knows it, for a machine whose own clock may be years off.
//!
//! A certificate's dates cannot be checked by a clock that is not right yet. So the handshake of
//! this one call leaves the dates for later: chain, name and the server's hold of its key are
//! checked at once, and when the server has said what time it is, the chain of that very handshake
//! must be valid at that time. Nothing is sent but a GET, and nothing comes out but the time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fault::{Fault, Kind};
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;

use crate::tls::Speaks;
use crate::{Https, codes, tls_files};

/// What time a server of the cluster said it is, and since when it is known. It is made by
/// [`server_time`] alone, so whoever holds one holds a time that a certified server vouches for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    unix: Duration,
    heard: Instant,
}

impl ServerTime {
    /// The time since 1970 as it is now: what the server said, run on by the monotonic clock.
    pub fn unix(&self) -> Duration {
        self.unix + self.heard.elapsed()
    }
}

impl fmt::Debug for ServerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTime({} s)", self.unix.as_secs())
    }
}

impl TimeProvider for ServerTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.unix()))
    }
}

#[derive(Deserialize)]
struct Answer {
    unix_millis: u64,
}

/// Asks a server of the cluster for the time: `url` answers `{"unix_millis": …}`. `floor` is a time
/// since 1970 that the caller knows to be over: who has the key of a certificate that expired
/// before it is not believed, whatever time he says.
///
/// # Errors
/// When the server cannot be reached or is not of this CA, when it says a time before the floor,
/// and when its certificate is not valid at the time that it says.
pub async fn server_time(ca: &Path, url: &str, floor: Duration) -> Result<ServerTime, Fault> {
    let roots = tls_files::read_roots(ca)?;
    let inner = WebPkiServerVerifier::builder_with_provider(roots, tls_files::provider())
        .build()
        .map_err(|error| cannot(error.to_string()))?;
    let later = Arc::new(DatesLater { inner, seen: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(tls_files::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| cannot(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(later.clone())
        .with_no_client_auth();
    config.alpn_protocols = Speaks::Http.alpn();
    config.resumption = rustls::client::Resumption::disabled();
    let https = Https::once(Arc::new(config));
    let asked = Instant::now();
    let answer: Answer = https.get_json(url).await?;
    let heard = Instant::now();
    // the answer is about half a round trip old
    let unix = Duration::from_millis(answer.unix_millis) + (heard - asked) / 2;
    if unix < floor {
        return Err(Fault::new(
            codes::TIME,
            Kind::Unavailable,
            format!(
                "{url} says that it is {} s after 1970, and {} s are known to be over",
                unix.as_secs(),
                floor.as_secs()
            ),
            "set the clock of that server; it may also be somebody else with a key of its past",
        ));
    }
    later.valid_at(UnixTime::since_unix_epoch(unix)).map_err(|error| {
        Fault::new(
            codes::TIME,
            Kind::Unavailable,
            format!("{url} says a time at which its own certificate is not valid: {error}"),
            "set the clock of that server, or renew its certificate",
        )
    })?;
    Ok(ServerTime { unix, heard })
}

fn cannot(why: String) -> Fault {
    Fault::new(codes::TLS_CA, Kind::Internal, format!("TLS cannot be set up: {why}"), "")
}

/// Checks all of a certificate but its dates, and keeps it for [`DatesLater::valid_at`].
#[derive(Debug)]
struct DatesLater {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

impl DatesLater {
    fn verify(&self, seen: &Seen, at: UnixTime) -> Result<(), rustls::Error> {
        let (leaf, more) =
            seen.chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.inner.verify_server_cert(leaf, more, &seen.name, &[], at).map(|_| ())
    }

    fn valid_at(&self, time: UnixTime) -> Result<(), rustls::Error> {
        let seen = self.seen.lock();
        self.verify(seen.as_ref().ok_or(rustls::Error::NoCertificatesPresented)?, time)
    }
}

impl ServerCertVerifier for DatesLater {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _wrong_clock: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // at the moment when the certificate began to be valid, only its dates cannot be the fault
        let info = identity::describe_cert_der(leaf).map_err(|_| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
        })?;
        let began = Duration::from_secs(info.not_before.unix_timestamp().max(0).unsigned_abs());
        let chain =
            std::iter::once(leaf).chain(more).map(|cert| cert.clone().into_owned()).collect();
        let seen = Seen { chain, name: name.to_owned() };
        self.verify(&seen, UnixTime::since_unix_epoch(began))?;
        *self.seen.lock() = Some(seen);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{Authority, KeyPair, SpiffeId};
    use rustls::pki_types::pem::PemObject;
    use time::OffsetDateTime;

    const DAY: u64 = 24 * 3600;

    fn later(ca: &Path) -> DatesLater {
        let roots = tls_files::read_roots(&ca.join("ca.pem")).unwrap();
        let inner = WebPkiServerVerifier::builder_with_provider(roots, tls_files::provider());
        DatesLater { inner: inner.build().unwrap(), seen: Mutex::new(None) }
    }

    /// The machine's own clock says what it likes.
    #[test]
    fn only_the_servers_time_decides_about_its_dates() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        let authority = Authority::create("plasma", &ours).unwrap();
        Authority::create("plasma", &theirs).unwrap();
        let (key, start) = (KeyPair::create().unwrap(), 1_600_000_000);
        let at = |unix: u64| OffsetDateTime::from_unix_timestamp(unix as i64).unwrap();
        let id = SpiffeId::service("plasma", "bootserver", "bootserver").unwrap();
        let sans = ["127.0.0.1".parse().unwrap()];
        let csr = key.csr_pem().unwrap();
        let pem = authority.sign_between(&csr, &id, &sans, at(start), at(start + DAY)).unwrap();
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let time = |unix| UnixTime::since_unix_epoch(Duration::from_secs(unix));
        let verify = |later: &DatesLater, name: &'static str, here| {
            let name = ServerName::try_from(name).unwrap();
            later.verify_server_cert(&leaf, &[], &name, &[], time(here)).map(|_| ())
        };
        for here in [0, start - 3650 * DAY, start, start + 3650 * DAY] {
            let later = later(&ours);
            assert!(later.valid_at(time(start + 60)).is_err(), "before any handshake");
            verify(&later, "127.0.0.1", here).unwrap();
            later.valid_at(time(start + 60)).unwrap();
            assert!(later.valid_at(time(start - 60)).is_err());
            assert!(later.valid_at(time(start + 2 * DAY)).is_err());
        }
        assert!(verify(&later(&ours), "127.0.0.2", start).is_err(), "another name");
        assert!(verify(&later(&theirs), "127.0.0.1", start).is_err(), "another CA");
    }
}
