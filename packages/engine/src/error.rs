use std::path::PathBuf;

use fault::{Code, Fault, Kind};

use crate::codes;

/// Why an engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("the engine in {dir} failed: {source}")]
    Io {
        /// The engine's folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Stored bytes are damaged or missing.
    #[error("the engine in {dir} is damaged: {what}")]
    Corrupt {
        /// The engine's folder.
        dir: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The disk is full.
    #[error("no space left for the engine in {dir}")]
    Full {
        /// The engine's folder.
        dir: PathBuf,
    },
    /// Another process has it open.
    #[error("the engine in {dir} is open in another process")]
    Locked {
        /// The engine's folder.
        dir: PathBuf,
    },
    /// It was written in another format.
    #[error("the engine in {dir} has another format: {what}")]
    Version {
        /// The engine's folder.
        dir: PathBuf,
        /// Which format it has.
        what: String,
    },
    /// It stopped after an earlier error.
    #[error("the engine in {dir} stopped after an earlier error")]
    Stopped {
        /// The engine's folder.
        dir: PathBuf,
    },
    /// The space was not named at open.
    #[error("unknown space: {0}")]
    UnknownSpace(String),
    /// The caller broke the contract.
    #[error("{0}")]
    Misuse(String),
}

impl EngineError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            EngineError::Io { .. } => codes::IO,
            EngineError::Corrupt { .. } => codes::CORRUPT,
            EngineError::Full { .. } => codes::FULL,
            EngineError::Locked { .. } => codes::LOCKED,
            EngineError::Version { .. } => codes::VERSION,
            EngineError::Stopped { .. } => codes::STOPPED,
            EngineError::UnknownSpace(_) => codes::SPACE,
            EngineError::Misuse(_) => codes::MISUSE,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            EngineError::Io { .. } => "look at the disk and the system log, then restart".into(),
            EngineError::Corrupt { dir, .. } => format!(
                "stop the process, move {} away and restart: the node rebuilds it from its peers",
                dir.display()
            ),
            EngineError::Full { .. } => "free or add disk space, then restart".into(),
            EngineError::Locked { .. } => "stop the other process or choose another folder".into(),
            EngineError::Version { .. } => "run the version that wrote it".into(),
            EngineError::Stopped { .. } => {
                "look for the first error in the log, then restart".into()
            }
            EngineError::UnknownSpace(_) | EngineError::Misuse(_) => {
                "this is a mistake in the program: report it".into()
            }
        }
    }

    /// Whether the folder must be rebuilt: trying again cannot help.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, EngineError::Corrupt { .. })
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Fault {
        let kind = match &error {
            EngineError::Corrupt { .. } => Kind::Corrupt,
            EngineError::Full { .. } => Kind::Exhausted,
            EngineError::Locked { .. } | EngineError::Version { .. } => Kind::Precondition,
            EngineError::Io { .. } | EngineError::Stopped { .. } => Kind::Unavailable,
            EngineError::UnknownSpace(_) | EngineError::Misuse(_) => Kind::Internal,
        };
        Fault::new(error.code(), kind, error.to_string(), error.hint())
    }
}
