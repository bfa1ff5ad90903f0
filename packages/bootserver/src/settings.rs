//! What the boot server is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use fault::{Fault, Kind};
use serde::Deserialize;
use telemetry::{LogSettings, OpsSettings};

use crate::codes;
use crate::dhcp::DhcpSettings;

/// The settings file; see [`Settings::EXAMPLE`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The state folder.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// The inventory's JSON.
    #[serde(default = "inventory")]
    pub inventory: PathBuf,
    /// Where nodes and operators call.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// Health and metrics.
    #[serde(default = "ops")]
    pub ops: OpsSettings,
    /// Join tokens.
    #[serde(default)]
    pub tokens: TokenSettings,
    /// Certificates.
    #[serde(default)]
    pub certificates: CertificateSettings,
    /// Netboot: scripts and images over plain HTTP.
    #[serde(default)]
    pub boot: BootSettings,
    /// How nodes come to their join tokens.
    #[serde(default)]
    pub enrollment: EnrollmentSettings,
    /// DHCP and TFTP.
    #[serde(default)]
    pub dhcp: DhcpSettings,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
}

/// Netboot: scripts and images over plain HTTP, never a secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootSettings {
    /// Where machines ask what to boot: `0.0.0.0:8080`. Without it there is no netboot.
    pub listen: Option<SocketAddr>,
    /// The folder with `manifest.json` and what it lists.
    pub images: PathBuf,
    /// The folder with iPXE's loaders.
    pub loaders: PathBuf,
    /// Bodies that are sent at the same time; more wait.
    pub max_streams: usize,
    /// More kernel arguments for installer and rescue.
    pub extra_args: Vec<String>,
}

/// How nodes come to their join tokens.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrollmentSettings {
    /// To whom the boot server hands tokens by itself.
    pub hand_out: HandOut,
}

/// To whom the boot server hands tokens by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandOut {
    /// Nobody: an operator makes each token.
    #[default]
    Never,
    /// A machine that fits a node of the inventory which is to be installed.
    Declared,
}

/// Join tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenSettings {
    /// The lifetime of a token when the operator names none.
    pub default_ttl_seconds: u64,
    /// The longest lifetime that an operator may ask for.
    pub max_ttl_seconds: u64,
}

/// Certificates.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateSettings {
    /// The lifetime of what nodes and services get.
    pub node_days: u32,
    /// The lifetime of the boot server's own and of the operator's; both renew by themselves.
    pub own_days: u32,
}

impl Default for TokenSettings {
    fn default() -> TokenSettings {
        TokenSettings { default_ttl_seconds: 15 * 60, max_ttl_seconds: 7 * 24 * 3600 }
    }
}

impl Default for CertificateSettings {
    fn default() -> CertificateSettings {
        CertificateSettings { node_days: 365, own_days: 90 }
    }
}

impl Default for BootSettings {
    fn default() -> BootSettings {
        BootSettings {
            listen: None,
            images: "/var/lib/plasma/images".into(),
            loaders: "/usr/lib/ipxe".into(),
            max_streams: 8,
            extra_args: Vec::new(),
        }
    }
}

fn state_dir() -> PathBuf {
    "/var/lib/bootserver".into()
}

fn inventory() -> PathBuf {
    "/etc/plasma/cluster.json".into()
}

fn listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn ops() -> OpsSettings {
    OpsSettings { listen: SocketAddr::from(([127, 0, 0, 1], 9080)) }
}

impl Settings {
    /// A whole file with the defaults.
    pub const EXAMPLE: &str = r#"state_dir = "/var/lib/bootserver"
inventory = "/etc/plasma/cluster.json"
listen = "0.0.0.0:8443"

[ops]
listen = "127.0.0.1:9080"

[tokens]
default_ttl_seconds = 900
max_ttl_seconds = 604800

[certificates]
node_days = 365
own_days = 90

# listen = "0.0.0.0:8080" turns netboot on
[boot]
images = "/var/lib/plasma/images"
loaders = "/usr/lib/ipxe"
max_streams = 8
extra_args = []

# "declared": a machine that fits a node which is to be installed gets its token by itself
[enrollment]
hand_out = "never"

[log]
level = "info"
format = "human"
"#;

    /// What no type can say.
    pub fn check(&self) -> Result<(), Fault> {
        let day = 24 * 3600;
        let numbers = [
            ("tokens.max_ttl_seconds", self.tokens.max_ttl_seconds, 60, 90 * day),
            (
                "tokens.default_ttl_seconds",
                self.tokens.default_ttl_seconds,
                MIN_TTL_SECONDS,
                self.tokens.max_ttl_seconds,
            ),
            ("certificates.node_days", self.certificates.node_days.into(), 1, 3650),
            ("certificates.own_days", self.certificates.own_days.into(), 1, 3650),
            ("boot.max_streams", self.boot.max_streams as u64, 1, 1024),
        ];
        for (key, value, min, max) in numbers {
            if !(min..=max).contains(&value) {
                return Err(Fault::new(
                    codes::BAD_SETTING,
                    Kind::Invalid,
                    format!("{key} is {value}, outside {min} to {max}"),
                    "correct it in the settings",
                ));
            }
        }
        Ok(())
    }
}

/// A token that lives shorter can hardly be used.
pub(crate) const MIN_TTL_SECONDS: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_defaults() {
        let read = |text: &str| settings::parse::<Settings>("x.toml".as_ref(), text).unwrap();
        let (example, empty) = (read(Settings::EXAMPLE), read(""));
        assert_eq!(format!("{example:?}"), format!("{empty:?}"));
        example.check().unwrap();
    }

    #[test]
    fn numbers_have_bounds() {
        let text = "[tokens]\ndefault_ttl_seconds = 1\n";
        let settings: Settings = settings::parse("x.toml".as_ref(), text).unwrap();
        let fault = settings.check().unwrap_err();
        assert_eq!(fault.code, codes::BAD_SETTING);
        assert!(fault.what.contains("tokens.default_ttl_seconds"), "{fault}");
    }
}
