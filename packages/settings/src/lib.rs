//! One loader for the settings of every process: file, then environment, then flags.
//!
//! - The file is TOML: `--config PATH`, or `/etc/plasma/<service>.toml` if that exists.
//! - The environment overrides it: `CHAINFIRE_CLIENT__LISTEN` sets `client.listen`; two underscores
//!   separate tables.
//! - Flags override both: `--set client.listen=127.0.0.1:2379`.
//!
//! Values of the last two are read as TOML where they are TOML (`true`, `7`, `["a", "b"]`) and as
//! text otherwise. An unknown key is an error wherever it stands, and the error names the place and
//! the nearest known key. That needs `#[serde(deny_unknown_fields)]` on every settings struct.

pub mod codes;
mod explain;
mod layers;
mod near;
mod secret;

use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use serde::de::DeserializeOwned;

use layers::Layers;

pub use near::nearest;
pub use secret::Secret;

/// Names after the prefix that are not settings, so that they may be set without being refused:
/// they belong to the process's surroundings (log filter, path of the file, folder of a CLI).
pub const NOT_SETTINGS: [&str; 3] = ["LOG", "CONFIG", "HOME"];

/// A settings file beyond this size is refused: it is not one of ours.
const FILE_MAX: u64 = 4 << 20;

/// The flags that every process shares; flatten them into its command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SettingsArgs {
    /// Settings file; without it, the file of /etc/plasma is read if there is one.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Override one setting, such as `client.listen=127.0.0.1:2379`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Read and check the settings, say the result, and stop.
    #[arg(long)]
    pub check_config: bool,
}

impl SettingsArgs {
    /// Arguments that name a file and nothing else.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { config: Some(path.into()), ..Self::default() }
    }

    /// What to print, once the settings were loaded, when only a check was asked for.
    pub fn checked(&self, service: &str) -> Option<String> {
        self.check_config.then(|| match self.source(service) {
            Some(path) => format!("settings are valid: {}", path.display()),
            None => "settings are valid (no file: defaults, environment and flags)".to_owned(),
        })
    }

    /// The file that is read, if any.
    fn source(&self, service: &str) -> Option<PathBuf> {
        match &self.config {
            Some(path) => Some(path.clone()),
            None => Some(default_file(service)).filter(|path| path.exists()),
        }
    }
}

/// The file that is read when no `--config` is given.
pub fn default_file(service: &str) -> PathBuf {
    Path::new("/etc/plasma").join(format!("{service}.toml"))
}

/// The prefix of a service's environment variables: `chainfire` has `CHAINFIRE_`.
pub fn prefix(service: &str) -> String {
    format!("{}_", service.to_uppercase().replace('-', "_"))
}

/// Reads the settings of a service from its file, the environment and the flags.
pub fn load<T: DeserializeOwned>(service: &str, args: &SettingsArgs) -> Result<T, Fault> {
    let file = match args.source(service) {
        Some(path) => {
            let text = read_file(&path)?;
            Some((path, text))
        }
        None => None,
    };
    let file = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(&prefix(service), file, environment, &args.set)
}

/// [`load`] with everything given: the pure part.
pub fn load_from<T: DeserializeOwned>(
    prefix: &str,
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> Result<T, Fault> {
    let mut layers = Layers::default();
    if let Some((path, text)) = file {
        layers.add_file(path, text)?;
    }
    layers.add_environment(prefix, environment)?;
    layers.add_flags(flags)?;
    layers.read()
}

/// Reads settings from the text of a file alone; `path` is for messages.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Fault> {
    load_from("", Some((path, text)), [], &[])
}

fn read_file(path: &Path) -> Result<String, Fault> {
    let unreadable = |why: String| {
        Fault::new(
            codes::UNREADABLE,
            Kind::Invalid,
            format!("settings file {} cannot be read: {why}", path.display()),
            "check the path given by --config and its permissions",
        )
    };
    let size = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if size > FILE_MAX {
        return Err(unreadable(format!("{size} bytes are more than {FILE_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))
}
