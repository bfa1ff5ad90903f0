//! What a call can end with. Every variant but [`Error::FateUnknown`] means: nothing was done.

use crate::codes;
use fault::{Code, Fault, Kind};

/// The end of a call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An endpoint or an argument cannot be used.
    #[error("{0}")]
    Invalid(Fault),
    /// No endpoint answered in time; nothing was done.
    #[error(
        "{} no endpoint answered ({last}), check the endpoints {endpoints}",
        codes::UNREACHABLE
    )]
    Unreachable {
        /// The endpoints that were tried.
        endpoints: String,
        /// What the last one failed with.
        last: String,
    },
    /// The cluster had no leader until the deadline; nothing was done.
    #[error(
        "{} the cluster has no leader ({last}), start a majority of its members",
        codes::NO_LEADER
    )]
    NoLeader {
        /// The member's own words.
        last: String,
    },
    /// A write was sent and its answer was lost: read before deciding whether to send it again.
    #[error(
        "{} the write may or may not have happened ({last}), read before writing again",
        codes::FATE_UNKNOWN
    )]
    FateUnknown {
        /// What the call failed with.
        last: String,
    },
    /// The server refused the request; nothing was done.
    #[error("{}", refused_text(fault.as_deref(), message))]
    Refused {
        /// gRPC's code.
        status: tonic::Code,
        /// etcd's text, which clients match on.
        message: String,
        /// The server's own code and hint, where it is a Chainfire.
        fault: Option<Box<Fault>>,
    },
    /// The revision asked for is gone; `compacted` is the last one that is.
    #[error(
        "{} the revision asked for is compacted (up to {compacted}), read the present state and go on from there",
        codes::COMPACTED
    )]
    Compacted {
        /// Everything up to and with this revision is gone.
        compacted: i64,
    },
    /// The lease is gone.
    #[error("{} lease {id:x} is lost, grant a new one", codes::LEASE_LOST)]
    LeaseLost {
        /// The lease.
        id: i64,
    },
    /// Another holder leads now; the guarded write was not done.
    #[error(
        "{} no longer holds {election}, stop acting as its holder and take another turn",
        codes::DEPOSED
    )]
    Deposed {
        /// Name of the election or lock.
        election: String,
    },
    /// The lease under a lock or leadership is past its safe time; the guarded write was not sent.
    #[error(
        "{} the lease under {name} was not kept alive in time, wait for a keep-alive or take another turn",
        codes::UNSAFE
    )]
    Unsafe {
        /// Name of the election or lock.
        name: String,
    },
    /// The watch was closed by its owner.
    #[error("{} the watch is closed", codes::CLOSED)]
    Closed,
    /// A member's answer contradicts the protocol.
    #[error("{code} a member's answer is not etcd's protocol: {0}", code = codes::PROTOCOL)]
    Protocol(
        /// What is wrong with it.
        String,
    ),
}

fn refused_text(fault: Option<&Fault>, message: &str) -> String {
    match fault {
        Some(fault) => fault.to_string(),
        None => format!("{} refused: {message}", codes::REFUSED),
    }
}

impl Error {
    /// An argument that cannot be used.
    pub(crate) fn invalid(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Invalid(Fault::new(codes::INVALID, Kind::Invalid, what, hint))
    }

    /// The stable code; a server's own where it sent one.
    pub fn code(&self) -> Code {
        match self {
            Error::Invalid(fault) => fault.code,
            Error::Unreachable { .. } => codes::UNREACHABLE,
            Error::NoLeader { .. } => codes::NO_LEADER,
            Error::FateUnknown { .. } => codes::FATE_UNKNOWN,
            Error::Refused { fault: Some(fault), .. } => fault.code,
            Error::Refused { .. } => codes::REFUSED,
            Error::Compacted { .. } => codes::COMPACTED,
            Error::LeaseLost { .. } => codes::LEASE_LOST,
            Error::Deposed { .. } => codes::DEPOSED,
            Error::Unsafe { .. } => codes::UNSAFE,
            Error::Closed => codes::CLOSED,
            Error::Protocol(_) => codes::PROTOCOL,
        }
    }

    /// True only where the request may have been done although it failed.
    pub fn fate_unknown(&self) -> bool {
        matches!(self, Error::FateUnknown { .. })
    }

    /// The kind for mapping to gRPC and HTTP.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Invalid(fault) => fault.kind,
            Error::Unreachable { .. } | Error::NoLeader { .. } | Error::Closed => Kind::Unavailable,
            Error::FateUnknown { .. } => Kind::Deadline,
            Error::Refused { fault: Some(fault), .. } => fault.kind,
            Error::Refused { status, .. } => kind_of(*status),
            Error::Compacted { .. } => Kind::OutOfRange,
            Error::LeaseLost { .. } => Kind::NotFound,
            Error::Deposed { .. } | Error::Unsafe { .. } => Kind::Precondition,
            Error::Protocol(_) => Kind::Internal,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        match error {
            Error::Invalid(fault) => fault,
            Error::Refused { fault: Some(fault), .. } => *fault,
            other => {
                let text = other.to_string();
                let code = other.code();
                let text = text.strip_prefix(code.0).unwrap_or(&text).trim_start();
                let (what, hint) = text.rsplit_once(", ").unwrap_or((text, ""));
                Fault::new(code, other.kind(), what, hint)
            }
        }
    }
}

fn kind_of(code: tonic::Code) -> Kind {
    use tonic::Code as C;
    match code {
        C::InvalidArgument | C::Unimplemented => Kind::Invalid,
        C::NotFound => Kind::NotFound,
        C::AlreadyExists => Kind::Exists,
        C::FailedPrecondition | C::Aborted => Kind::Precondition,
        C::OutOfRange => Kind::OutOfRange,
        C::Unauthenticated => Kind::Unauthenticated,
        C::PermissionDenied => Kind::Denied,
        C::ResourceExhausted => Kind::Exhausted,
        C::Unavailable | C::Cancelled => Kind::Unavailable,
        C::DeadlineExceeded => Kind::Deadline,
        C::DataLoss => Kind::Corrupt,
        C::Ok | C::Unknown | C::Internal => Kind::Internal,
    }
}
