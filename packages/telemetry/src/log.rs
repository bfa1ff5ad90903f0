//! Logs go to stderr, for people or as JSON; the filter is the setting, or `RUST_LOG` if it is set.

use std::io::IsTerminal;

use fault::{Fault, Kind};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::codes;

/// How much is logged, and in which form: the table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as `info,consensus=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: Format,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Human }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One compact line: time, level, target, message, fields.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging of this process to stderr. Later calls only check their settings: tests in one
/// process share one log.
pub fn init(service: &'static str, log: &LogSettings) -> Result<(), Fault> {
    let filter = filter(&log.level, std::env::var("RUST_LOG").ok().as_deref())?;
    if crate::SERVICE.set(service).is_err() {
        return Ok(());
    }
    let ansi = std::io::stderr().is_terminal();
    // Refused only when the program installed a subscriber itself, whose choice then stands.
    let _ = subscriber(log.format, filter, ansi, std::io::stderr).try_init();
    Ok(())
}

/// Libraries whose `info` is for their own developers. What ends a Raft group, `consensus` reports.
const QUIET: &str = "openraft=off,fjall=warn,lsm_tree=warn,h2=warn,hyper=warn,hyper_util=warn,\
                     rustls=warn,tower=warn";

/// The filter of the settings, unless the environment has one; libraries that talk too much at
/// `info` are kept to warnings unless named.
fn filter(level: &str, rust_log: Option<&str>) -> Result<EnvFilter, Fault> {
    let text = rust_log.filter(|text| !text.trim().is_empty()).unwrap_or(level);
    let refuse = |why: String| {
        Fault::new(
            codes::LOG_LEVEL,
            Kind::Invalid,
            format!("log level {text:?} is not understood: {why}"),
            "use error, warn, info, debug or trace, or a list like info,consensus=debug",
        )
    };
    if text.trim().is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        if !part.contains('=') && !known.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(refuse(format!("{level:?} is no level")));
        }
    }
    let all = format!("{QUIET},{text}");
    EnvFilter::builder().parse(all).map_err(|e| refuse(e.to_string()))
}

fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    ansi: bool,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let base = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
    match format {
        Format::Human => Box::new(base.with(lines.compact())),
        Format::Json => Box::new(base.with(lines.json().flatten_event(true))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, rust_log: Option<&str>) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            subscriber(format, filter(level, rust_log).unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(member = 7, "leader elected");
            tracing::debug!("details");
        });
        String::from_utf8(kept.0.lock().clone()).unwrap()
    }

    #[test]
    fn people_get_time_level_target_and_fields_on_one_line() {
        let text = logged(Format::Human, "info", None);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["INFO", "telemetry::log::tests", "leader elected", "member=7", "T"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn machines_get_json() {
        let text = logged(Format::Json, "info", None);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "leader elected");
        assert_eq!(line["member"], 7);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn the_environment_overrides_the_level() {
        assert!(logged(Format::Human, "info", Some("debug")).contains("details"));
        assert_eq!(logged(Format::Human, "debug", Some("off")), "");
        assert!(logged(Format::Human, "debug", Some(" ")).contains("details"));
    }

    #[test]
    fn a_wrong_level_is_named() {
        for level in ["loud", "", "info,loud", "a=b=c"] {
            let fault = filter(level, None).unwrap_err();
            assert_eq!(fault.code, codes::LOG_LEVEL, "{level:?}");
        }
        assert!(filter("info,consensus=debug", None).is_ok());
    }
}
