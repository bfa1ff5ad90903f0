use std::io;

use fault::{Code, Fault, Kind};

use crate::codes;

/// Why the journal could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file could not be read, written or synced.
    #[error("cannot {action} journal file {file}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No room for another segment. Nothing of the call was acknowledged.
    #[error("no space left for journal file {file}: {source}")]
    Full {
        /// The file that could not be made.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Synced bytes are not what was written.
    #[error("journal file {file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// The folder has a format that this version does not know.
    #[error("journal file {file} has format {found}, this version knows {known}")]
    Version {
        /// The file.
        file: String,
        /// The format found.
        found: u32,
        /// The format that this version writes.
        known: u32,
    },
    /// Another process has the folder open.
    #[error("the journal in {dir} is open in another process")]
    Locked {
        /// The folder.
        dir: String,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// A record does not follow what is in its group. Nothing of the call was taken.
    #[error("record refused: {0}")]
    Invalid(String),
    /// A record is larger than a segment can hold. Nothing of the call was taken.
    #[error("record of {bytes} bytes refused: at most {limit} fit")]
    TooLarge {
        /// The record's size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// An option cannot be.
    #[error("journal option refused: {0}")]
    Options(String),
}

impl JournalError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            JournalError::Io { .. } => codes::IO,
            JournalError::Full { .. } => codes::FULL,
            JournalError::Corrupt { .. } => codes::CORRUPT,
            JournalError::Version { .. } => codes::VERSION,
            JournalError::Locked { .. } => codes::LOCKED,
            JournalError::Closed => codes::CLOSED,
            JournalError::Invalid(_) => codes::INVALID,
            JournalError::TooLarge { .. } => codes::TOO_LARGE,
            JournalError::Options(_) => codes::OPTIONS,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            JournalError::Io { .. } => {
                "look at the disk and the system log, then restart; what was acknowledged is kept"
            }
            JournalError::Full { .. } => {
                "free or add disk space, then restart; what was acknowledged is kept"
            }
            JournalError::Corrupt { .. } => {
                "the disk changed synced bytes: replace it, move the node's data away and let the \
                 node join again, or restore a backup if it is the only one"
            }
            JournalError::Version { .. } => "run the version that wrote it",
            JournalError::Locked { .. } => "stop the other process or choose another folder",
            JournalError::Closed => "the process is stopping: ask another node",
            JournalError::Invalid(_) => "this is a mistake in the program: report it",
            JournalError::TooLarge { .. } => "send smaller requests",
            JournalError::Options(_) => "correct the configuration",
        }
    }
}

impl From<&JournalError> for Fault {
    fn from(error: &JournalError) -> Fault {
        let kind = match error {
            JournalError::Io { .. } | JournalError::Closed => Kind::Unavailable,
            JournalError::Full { .. } => Kind::Exhausted,
            JournalError::Corrupt { .. } => Kind::Corrupt,
            JournalError::Version { .. } | JournalError::Locked { .. } => Kind::Precondition,
            JournalError::TooLarge { .. } | JournalError::Options(_) => Kind::Invalid,
            JournalError::Invalid(_) => Kind::Internal,
        };
        Fault::new(error.code(), kind, error.to_string(), error.hint())
    }
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Fault {
        Fault::from(&error)
    }
}
