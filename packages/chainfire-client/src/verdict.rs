//! Decides what a failed call means. Pure: the retry loop acts on it.
//!
//! Must stay true: [`Verdict::NothingDone`] and [`Verdict::Refused`] are only given where the
//! request surely had no effect. Everything in doubt is [`Verdict::Lost`].

use crate::Error;
use fault::Fault;
use tonic::{Code, Status};

/// What a failed call means for the request that was made.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Never reached a server, or was refused for a passing reason: send it again, elsewhere.
    NothingDone {
        /// True where a member said that there is no leader.
        no_leader: bool,
    },
    /// Refused for good.
    Refused(Error),
    /// The answer is lost: only a read may be sent again.
    Lost,
}

/// Texts by which an etcd member says that it refused before doing anything.
const NO_LEADER: &[&str] = &["etcdserver: no leader", "etcdserver: not leader"];
const TRY_ANOTHER: &[&str] = &[
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
    "etcdserver: not capable",
];

pub(crate) fn judge(status: &Status) -> Verdict {
    if never_sent(status) {
        return Verdict::NothingDone { no_leader: false };
    }
    if std::error::Error::source(status).is_some() {
        return Verdict::Lost; // broken on the way, not said by a server
    }
    let text = status.message();
    if NO_LEADER.iter().any(|known| text.contains(known)) {
        return Verdict::NothingDone { no_leader: true };
    }
    if TRY_ANOTHER.iter().any(|known| text.contains(known)) {
        return Verdict::NothingDone { no_leader: false };
    }
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Verdict::Refused(refused(status)),
        _ => Verdict::Lost,
    }
}

/// The typed refusal of a status that a server sent.
pub(crate) fn refused(status: &Status) -> Error {
    if status.message().contains("required revision has been compacted") {
        // The text does not say up to where; 0 means: unknown, ask for the present state.
        return Error::Compacted { compacted: 0 };
    }
    Error::Refused {
        status: status.code(),
        message: status.message().to_owned(),
        fault: Fault::from_status(status).map(Box::new),
    }
}

/// True only where no byte of the request left this process: connecting failed.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A status and its causes in one line, for messages.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, text: &str) -> &'static str {
        match judge(&Status::new(code, text)) {
            Verdict::NothingDone { no_leader: true } => "no leader",
            Verdict::NothingDone { no_leader: false } => "again",
            Verdict::Refused(_) => "refused",
            Verdict::Lost => "lost",
        }
    }

    #[test]
    fn only_sure_refusals_allow_another_try() {
        let table = [
            (Code::Unavailable, "etcdserver: no leader", "no leader"),
            (Code::ResourceExhausted, "etcdserver: too many requests", "again"),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", "again"),
            (Code::Unavailable, "etcdserver: request timed out", "lost"),
            (Code::Unavailable, "etcdserver: leader changed", "lost"),
            (Code::Unavailable, "etcdserver: server stopped", "lost"),
            (Code::DeadlineExceeded, "", "lost"),
            (Code::Unknown, "", "lost"),
            (Code::Internal, "", "lost"),
            (Code::Cancelled, "", "lost"),
            (Code::InvalidArgument, "etcdserver: key is not provided", "refused"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "refused"),
            (Code::NotFound, "etcdserver: requested lease not found", "refused"),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                "refused",
            ),
            (Code::Unauthenticated, "", "refused"),
        ];
        for (code, text, expected) in table {
            assert_eq!(kind(code, text), expected, "{code:?} {text}");
        }
    }

    #[test]
    fn a_compacted_revision_is_told_apart() {
        let status = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        let Verdict::Refused(error) = judge(&status) else { panic!("not refused") };
        assert!(matches!(error, Error::Compacted { .. }));
    }
}
