//! Error codes with a hint, and their mapping to gRPC and HTTP.
//!
//! A [`Fault`] is what crosses a border: a process's exit message, a gRPC status, an HTTP body.
//! Inside a crate errors are typed enums; at the border they become faults, once.
//!
//! Every crate lists its codes in its own `codes.rs`; a code never changes its meaning and is never
//! used again. The letters before the dash name the crate.

mod code;
mod grpc;
mod json;

use std::fmt;

pub use code::Code;

/// What went wrong with what, under which code, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What happened to what; lower case, no full stop.
    pub what: String,
    /// What the reader can do next; may be empty when there is nothing to do.
    pub hint: String,
    /// The class, which decides the gRPC and HTTP status.
    pub kind: Kind,
}

/// The class of a fault: it decides the gRPC code and the HTTP status, and whether trying again
/// can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request or the configuration is wrong and stays wrong.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The thing exists already.
    Exists,
    /// The system is not in the state that this needs.
    Precondition,
    /// A position is beyond what is kept.
    OutOfRange,
    /// Nobody known is asking.
    Unauthenticated,
    /// The caller is known and may not.
    Denied,
    /// A limit is reached.
    Exhausted,
    /// Not now; trying again can help.
    Unavailable,
    /// It took too long; whether it happened is not known.
    Deadline,
    /// Stored bytes are damaged.
    Corrupt,
    /// A mistake of ours.
    Internal,
}

impl Kind {
    /// All kinds, for tables.
    pub const ALL: [Kind; 12] = [
        Kind::Invalid,
        Kind::NotFound,
        Kind::Exists,
        Kind::Precondition,
        Kind::OutOfRange,
        Kind::Unauthenticated,
        Kind::Denied,
        Kind::Exhausted,
        Kind::Unavailable,
        Kind::Deadline,
        Kind::Corrupt,
        Kind::Internal,
    ];

    /// The HTTP status that answers a fault of this kind.
    pub fn http(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Kind::Invalid | Kind::OutOfRange => S::BAD_REQUEST,
            Kind::NotFound => S::NOT_FOUND,
            Kind::Exists => S::CONFLICT,
            Kind::Precondition => S::PRECONDITION_FAILED,
            Kind::Unauthenticated => S::UNAUTHORIZED,
            Kind::Denied => S::FORBIDDEN,
            Kind::Exhausted => S::TOO_MANY_REQUESTS,
            Kind::Unavailable => S::SERVICE_UNAVAILABLE,
            Kind::Deadline => S::GATEWAY_TIMEOUT,
            Kind::Corrupt | Kind::Internal => S::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC code that answers a fault of this kind.
    pub fn grpc(self) -> tonic::Code {
        use tonic::Code as C;
        match self {
            Kind::Invalid => C::InvalidArgument,
            Kind::NotFound => C::NotFound,
            Kind::Exists => C::AlreadyExists,
            Kind::Precondition => C::FailedPrecondition,
            Kind::OutOfRange => C::OutOfRange,
            Kind::Unauthenticated => C::Unauthenticated,
            Kind::Denied => C::PermissionDenied,
            Kind::Exhausted => C::ResourceExhausted,
            Kind::Unavailable => C::Unavailable,
            Kind::Deadline => C::DeadlineExceeded,
            Kind::Corrupt => C::DataLoss,
            Kind::Internal => C::Internal,
        }
    }

    /// Whether the same call, tried again later, can succeed without anything being changed.
    pub fn passes(self) -> bool {
        matches!(self, Kind::Unavailable | Kind::Deadline | Kind::Exhausted)
    }
}

impl Fault {
    /// A fault; `what` says what happened to what, `hint` what to do next.
    pub fn new(code: Code, kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, kind, what: what.into(), hint: hint.into() }
    }

    /// The HTTP status that answers this fault.
    pub fn http(&self) -> http::StatusCode {
        self.kind.http()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.what)?;
        if !self.hint.is_empty() {
            write!(f, ", {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_one_sentence() {
        let fault =
            Fault::new(Code("CF-1003"), Kind::NotFound, "lease not found: 7", "grant it again");
        assert_eq!(fault.to_string(), "CF-1003 lease not found: 7, grant it again");
        let terse = Fault::new(Code("CF-1"), Kind::Internal, "odd", "");
        assert_eq!(terse.to_string(), "CF-1 odd");
    }

    #[test]
    fn every_kind_has_an_error_status() {
        for kind in Kind::ALL {
            assert!(
                kind.http().is_client_error() || kind.http().is_server_error(),
                "{kind:?} answers {}",
                kind.http()
            );
            assert_ne!(kind.grpc(), tonic::Code::Ok, "{kind:?}");
        }
    }
}
