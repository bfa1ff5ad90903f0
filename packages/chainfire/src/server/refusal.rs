//! Refusals in etcd's words: client libraries match on code and text. Our own code and a hint of
//! what to do next travel in the metadata `plasma-code` and `plasma-hint`.
//!
//! No refusal is without a hint: one that is empty does not compile. Services answer errors from
//! here alone, which a test holds against their sources.

use consensus::{MembershipError, ProposeError, ReadError};
use fault::Code as Plasma;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::tally::Tally;
use crate::codes;
use crate::store::{AuthError, StoreError, shown};

/// One way to say no.
#[derive(Debug)]
pub(crate) struct Refusal {
    grpc: Code,
    text: &'static str,
    code: Plasma,
    hint: Hint,
}

const fn refusal(
    grpc: Code,
    text: &'static str,
    code: Plasma,
    text_of_hint: &'static str,
) -> Refusal {
    Refusal { grpc, text, code, hint: hint(text_of_hint) }
}

/// What the caller can do next. Never empty, and always fit for metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hint(&'static str);

/// Use it in constants, so that what is wrong with a hint is an error of compilation.
const fn hint(text: &'static str) -> Hint {
    let bytes = text.as_bytes();
    assert!(!bytes.is_empty(), "every refusal has a hint");
    let mut at = 0;
    while at < bytes.len() {
        assert!(matches!(bytes[at], b' '..=b'~'), "metadata is visible ASCII");
        at += 1;
    }
    Hint(text)
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Status {
        status(refusal.grpc, refusal.text, refusal.code, refusal.hint)
    }
}

fn status(grpc: Code, text: impl Into<String>, code: Plasma, hint: Hint) -> Status {
    let mut metadata = MetadataMap::with_capacity(2);
    metadata.insert("plasma-code", MetadataValue::from_static(code.0));
    metadata.insert("plasma-hint", MetadataValue::from_static(hint.0));
    Status::with_metadata(grpc, text, metadata)
}

pub(crate) const TOO_LARGE: Refusal = refusal(
    Code::InvalidArgument,
    "etcdserver: request is too large",
    codes::TOO_LARGE,
    "split the request; the limit is limits.request_bytes",
);
pub(crate) const NO_SPACE: Refusal = refusal(
    Code::ResourceExhausted,
    "etcdserver: mvcc: database space exceeded",
    codes::NO_SPACE,
    "delete, compact, then disarm the alarm; or raise storage.quota_bytes",
);
pub(crate) const NO_LEADER: Refusal = refusal(
    Code::Unavailable,
    "etcdserver: no leader",
    codes::NO_LEADER,
    "try again; if it stays, bring a majority of the members up",
);
pub(crate) const NOT_LEADER: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: not leader",
    codes::NOT_LEADER,
    "ask the leader; endpoint status names it",
);
pub(crate) const TIMED_OUT: Refusal = refusal(
    Code::Unavailable,
    "etcdserver: request timed out",
    codes::TIMED_OUT,
    "it may still take effect; read before trying again",
);
const LEADER_CHANGED: Refusal = refusal(
    Code::Unavailable,
    "etcdserver: leader changed",
    codes::LEADER_CHANGED,
    "it may still take effect; read before trying again",
);
pub(crate) const BUSY: Refusal = refusal(
    Code::ResourceExhausted,
    "etcdserver: too many requests",
    codes::BUSY,
    "send less at once, or try again",
);
pub(crate) const STOPPED: Refusal = refusal(
    Code::Unavailable,
    "etcdserver: server stopped",
    codes::STOPPED,
    "ask another member; this one's log says why",
);
pub(crate) const LEASE_NOT_FOUND: Refusal = refusal(
    Code::NotFound,
    "etcdserver: requested lease not found",
    codes::NO_LEASE,
    "grant it again",
);
pub(crate) const COMPACTED_TEXT: &str = "etcdserver: mvcc: required revision has been compacted";
pub(crate) const MEMBER_NOT_FOUND: Refusal = refusal(
    Code::NotFound,
    "etcdserver: member not found",
    codes::NO_MEMBER,
    "member list shows them",
);
pub(crate) const PEER_URL_EXISTS: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: Peer URLs already exists",
    codes::MEMBER_EXISTS,
    "remove the member that has the URL first",
);
const MEMBER_EXISTS: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: member ID already exist",
    codes::MEMBER_EXISTS,
    "ids are never used again",
);
pub(crate) const BAD_URLS: Refusal = refusal(
    Code::InvalidArgument,
    "etcdserver: given member URLs are invalid",
    codes::BAD_REQUEST,
    "give https://host:port, at least one and at most 16",
);
const NOT_LEARNER: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: can only promote a learner member",
    codes::MEMBERS,
    "it votes already",
);
const LEARNER_NOT_READY: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: can only promote a learner member which is in sync with leader",
    codes::NOT_READY,
    "try again when it has caught up",
);
const NOT_ENOUGH_STARTED: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: re-configuration failed due to not enough started members",
    codes::MEMBERS,
    "bring more voters up first",
);
pub(crate) const BAD_TRANSFEREE: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: bad leader transferee",
    codes::MEMBERS,
    "name a voter",
);
const CHANGING: Refusal = refusal(
    Code::Unavailable,
    "chainfire: another change of members is under way",
    codes::MEMBERS,
    "try again in a moment",
);
pub(crate) const AUTH_OFF: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: authentication is not enabled",
    codes::NO_AUTH,
    "call without a token, or enable authentication first",
);
pub(crate) const AUTH_FAILED: Refusal = refusal(
    Code::InvalidArgument,
    "etcdserver: authentication failed, invalid user ID or password",
    codes::UNAUTHENTICATED,
    "check name and password; a user without a password comes by certificate",
);
pub(crate) const INVALID_TOKEN: Refusal = refusal(
    Code::Unauthenticated,
    "etcdserver: invalid auth token",
    codes::UNAUTHENTICATED,
    "log in again: it has expired, or the user has changed",
);
pub(crate) const NO_LIMITS: Refusal = refusal(
    Code::InvalidArgument,
    "chainfire: no quota is given",
    codes::BAD_REQUEST,
    "give a prefix and its limits; 0 is no limit",
);
pub(crate) const LONG_PASSWORD: Refusal = refusal(
    Code::InvalidArgument,
    "chainfire: the password is longer than 72 bytes",
    codes::TOO_LARGE,
    "bcrypt would ignore the rest; take a shorter one",
);
pub(crate) const BAD_PASSWORD: Refusal = refusal(
    Code::InvalidArgument,
    "chainfire: the password cannot be hashed",
    codes::BAD_REQUEST,
    "take one without zero bytes",
);
pub(crate) const BAD_HASH: Refusal = refusal(
    Code::InvalidArgument,
    "chainfire: the hashed password is none",
    codes::BAD_REQUEST,
    "give bcrypt's text of cost 4 to 16 in base64, or a password",
);
pub(crate) const NO_RANDOM: Refusal = refusal(
    Code::Internal,
    "chainfire: no random bytes can be had",
    codes::INTERNAL,
    "the system's generator fails; try another member",
);
pub(crate) const NO_DOWNGRADE: Refusal = refusal(
    Code::InvalidArgument,
    "etcdserver: invalid downgrade target version",
    codes::UNSUPPORTED,
    "chainfire has one storage version, so there is nothing to downgrade to",
);
pub(crate) const WRONG_CLUSTER: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: cluster ID mismatch",
    codes::WRONG_CLUSTER,
    "check cluster_id and join in the caller's settings",
);
pub(crate) const BAD_NAME: Refusal = refusal(
    Code::InvalidArgument,
    "chainfire: join needs a name, a nonce of 16 bytes and valid peer URLs",
    codes::BAD_REQUEST,
    "name the member, and keep the nonce in its data folder before the first call",
);
pub(crate) const NO_VERSION: Refusal = refusal(
    Code::InvalidArgument,
    "etcdserver: wrong downgrade target version format",
    codes::BAD_REQUEST,
    "name it as major.minor, such as 3.5",
);
pub(crate) const NOT_DOWNGRADING: Refusal = refusal(
    Code::FailedPrecondition,
    "etcdserver: no inflight downgrade job",
    codes::UNSUPPORTED,
    "there is nothing to cancel",
);
pub(crate) const UNKNOWN_METHOD: Refusal = refusal(
    Code::Unknown,
    "etcdserver: unknown method",
    codes::BAD_REQUEST,
    "use one of the actions of the API",
);
pub(crate) const STREAM_SORTS: Refusal = refusal(
    Code::Unimplemented,
    "RangeStream does not support custom sort orders",
    codes::UNSUPPORTED,
    "use Range, or take the pairs in key order",
);
pub(crate) const STREAM_FILTERS: Refusal = refusal(
    Code::Unimplemented,
    "RangeStream does not support revision filters",
    codes::UNSUPPORTED,
    "use Range, or leave out what does not fit",
);
pub(crate) const BEHIND: Refusal = refusal(
    Code::Unavailable,
    "chainfire: this member has not applied the revision that was asked for",
    codes::FUTURE,
    "ask again, or another member; or read linearizably",
);
pub(crate) const NO_GOSSIP: Refusal = refusal(
    Code::FailedPrecondition,
    "chainfire: gossip is off on this member",
    codes::NO_GOSSIP,
    "give its settings a [gossip] with listen, on every member",
);
pub(crate) const NO_METHOD: Refusal = refusal(
    Code::Unimplemented,
    "unknown method for service etcdserverpb.Watch",
    codes::UNSUPPORTED,
    "the service has one method: Watch",
);
/// A mistake of ours.
pub(crate) const MISMATCH: Refusal = refusal(
    Code::Internal,
    "chainfire: the store gave an answer of another kind",
    codes::INTERNAL,
    "report this with the member's log",
);

// etcd answers locks and elections with code Unknown and these words
pub(crate) const SESSION_EXPIRED: Refusal = refusal(
    Code::Unknown,
    "mutex: session is expired",
    codes::LOST_TURN,
    "the lease ended while waiting: keep it alive, and try again with a new one",
);
pub(crate) const NOT_ELECTED: Refusal = refusal(
    Code::Unknown,
    "election: not leader",
    codes::LOST_TURN,
    "another leads, or the lease ended: campaign again",
);
pub(crate) const NOBODY_ELECTED: Refusal = refusal(
    Code::Unknown,
    "election: no leader",
    codes::NO_KEY,
    "nobody campaigns under this name",
);
pub(crate) const NO_LEADER_KEY: Refusal = refusal(
    Code::Unknown,
    "\"leader\" field must be provided",
    codes::BAD_REQUEST,
    "give the leader key that campaign answered",
);

/// A member with this name is alive, so a newcomer may not displace it.
pub(crate) fn alive(name: &str) -> Status {
    status(
        Code::FailedPrecondition,
        format!("chainfire: member {name} is alive, a newcomer may not displace it"),
        codes::ALIVE,
        const { hint("stop it first; or give the newcomer another name") },
    )
}

/// Whether the member with this name is alive cannot be told yet.
pub(crate) fn ask_again(name: &str) -> Status {
    status(
        Code::Unavailable,
        format!(
            "chainfire: the leader is new and does not know yet whether member {name} is alive"
        ),
        codes::NEW_LEADER,
        const { hint("ask again in a few seconds") },
    )
}

/// The caller's certificate does not fit the request.
pub(crate) fn denied(what: impl Into<String>) -> Status {
    let hint = const { hint("use the certificate of that service") };
    status(Code::PermissionDenied, what, codes::DENIED, hint)
}

/// The store's own refusals.
pub(crate) fn store(error: StoreError) -> Status {
    use StoreError as E;
    const KEY: Hint = hint("give a key of at least one byte");
    const VALUE: Hint = hint("leave the value out, or ignore_value");
    const LEASE: Hint = hint("leave the lease out, or ignore_lease");
    const ONCE: Hint = hint("write each key once in a transaction");
    const SORT: Hint = hint("use one of the sort targets and orders of the API");
    const EXISTS: Hint = hint("the option needs a key that exists");
    const OPS: Hint = hint("split it; the limit is limits.txn_ops");
    const LONG: Hint = hint("shorten the key: at most 32760 bytes");
    const OLD: Hint = hint("read at a newer revision");
    const FUTURE: Hint = hint("read at the present revision");
    const DAMAGED: Hint = hint("remove the damaged member and let it join anew");
    const ID: Hint = hint("use another id, or 0 to let the server choose");
    const TTL: Hint = hint("at most 9000000000 seconds");
    const QUOTA: Hint = hint("delete keys of the namespace, or have root raise its quota");
    const QUOTAS: Hint = hint("list the quotas; the prefix must be exactly one of theirs");
    const FEWER: Hint = hint("delete some: at most 1000 namespaces have quotas");
    const MALFORMED: Hint = hint("report this with the member's log");
    const ENGINE: Hint = hint("this member's log says more; ask another member");
    let (code, hint) = match &error {
        E::EmptyKey => (codes::BAD_REQUEST, KEY),
        E::ValueProvided => (codes::BAD_REQUEST, VALUE),
        E::LeaseProvided => (codes::BAD_REQUEST, LEASE),
        E::DuplicateKey => (codes::BAD_REQUEST, ONCE),
        E::InvalidSortOption => (codes::BAD_REQUEST, SORT),
        E::KeyNotFound => (codes::NO_KEY, EXISTS),
        E::TooManyOps => (codes::TOO_LARGE, OPS),
        E::TooLarge => (codes::TOO_LARGE, LONG),
        E::Compacted => (codes::COMPACTED, OLD),
        E::FutureRevision => (codes::FUTURE, FUTURE),
        E::NoSpace => return Status::from(&NO_SPACE),
        E::Corrupt => (codes::CORRUPT, DAMAGED),
        E::LeaseNotFound => return Status::from(&LEASE_NOT_FOUND),
        E::LeaseExists => (codes::LEASE_EXISTS, ID),
        E::LeaseTtlTooLarge => (codes::BAD_REQUEST, TTL),
        E::NotLessor => return Status::from(&NOT_LEADER),
        E::Malformed => (codes::BAD_REQUEST, MALFORMED),
        E::Auth(error) => about_users(*error),
        E::OverQuota { what, .. } => {
            if *what == "keys" { Tally::Keys } else { Tally::Bytes }.add();
            (codes::OVER_QUOTA, QUOTA)
        }
        E::NoQuota => (codes::NO_QUOTA, QUOTAS),
        E::TooManyQuotas => (codes::TOO_LARGE, FEWER),
        E::Engine(_) => (codes::ENGINE, ENGINE),
    };
    status(error.code(), error.to_string(), code, hint)
}

/// A namespace has had its requests for now.
pub(crate) fn over_rate(prefix: &[u8], rate: u64) -> Status {
    Tally::Requests.add();
    let prefix = shown(prefix);
    status(
        Code::ResourceExhausted,
        format!(
            "chainfire: quota of namespace \"{prefix}\" exceeded: {rate} requests a second on this \
             member; slow down, or have root raise the quota"
        ),
        codes::OVER_QUOTA,
        const { hint("try again in a moment; each member counts by itself") },
    )
}

/// What users, roles and permissions refuse.
pub(crate) fn auth(error: AuthError) -> Status {
    store(StoreError::Auth(error))
}

fn about_users(error: AuthError) -> (Plasma, Hint) {
    use AuthError as E;
    const ROOT_USER: Hint = hint("add the user root first");
    const ROOT_ROLE: Hint = hint("grant the role root to the user root first");
    const LOCKED_OUT: Hint = hint("it names no range, or would leave nobody as root");
    const EXISTS: Hint = hint("take another name, or change the one that exists");
    const LIST: Hint = hint("user list and role list show them");
    const NAME: Hint = hint("give a name");
    const WHO: Hint = hint("log in, or show a certificate of the cluster");
    const GRANT: Hint = hint("root can grant the user a role for this range");
    const GIVE: Hint = hint("give a permission with key and kind");
    const AGAIN: Hint = hint("log in again: the user has changed meanwhile");
    match error {
        E::RootUserNotExist => (codes::USERS, ROOT_USER),
        E::RootRoleNotExist => (codes::USERS, ROOT_ROLE),
        E::InvalidManagement => (codes::USERS, LOCKED_OUT),
        E::UserExists | E::RoleExists => (codes::USERS, EXISTS),
        E::UserNotFound | E::RoleNotFound | E::RoleNotGranted | E::PermissionNotGranted => {
            (codes::USERS, LIST)
        }
        E::RoleEmpty => (codes::USERS, NAME),
        E::PermissionNotGiven => (codes::USERS, GIVE),
        E::UserEmpty => {
            Tally::Nobody.add();
            (codes::UNAUTHENTICATED, WHO)
        }
        E::OldRevision => {
            Tally::Token.add();
            (codes::UNAUTHENTICATED, AGAIN)
        }
        E::PermissionDenied => {
            Tally::Permission.add();
            (codes::FORBIDDEN, GRANT)
        }
    }
}

pub(crate) fn propose(error: ProposeError) -> Status {
    Status::from(match error {
        ProposeError::NoLeader { .. } => &NO_LEADER,
        ProposeError::TooBusy => &BUSY,
        ProposeError::TimedOut(_) => &TIMED_OUT,
        ProposeError::LeaderChanged => &LEADER_CHANGED,
        ProposeError::TooLarge { .. } => &TOO_LARGE,
        ProposeError::Stopped | ProposeError::Failed(_) => &STOPPED,
    })
}

pub(crate) fn read(error: ReadError) -> Status {
    Status::from(match error {
        ReadError::NoLeader { .. } => &NO_LEADER,
        ReadError::TooBusy => &BUSY,
        ReadError::TimedOut(_) => &TIMED_OUT,
        ReadError::Stopped | ReadError::Failed(_) => &STOPPED,
    })
}

pub(crate) fn membership(error: MembershipError) -> Status {
    use MembershipError as E;
    Status::from(match error {
        E::NoLeader { .. } => &NO_LEADER,
        E::Formed | E::Exists(_) => &MEMBER_EXISTS,
        E::NotFound(_) => &MEMBER_NOT_FOUND,
        E::NotReady { .. } => &LEARNER_NOT_READY,
        E::NotLearner(_) => &NOT_LEARNER,
        E::NotVoter(_) => &BAD_TRANSFEREE,
        E::InProgress => &CHANGING,
        E::Quorum(_) => &NOT_ENOUGH_STARTED,
        E::TimedOut(_) => &TIMED_OUT,
        E::LeaderChanged => &LEADER_CHANGED,
        E::Stopped | E::Failed(_) => &STOPPED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_etcds_words_and_our_code() {
        let status = propose(ProposeError::NoLeader { hint: None });
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "etcdserver: no leader");
        let fault = fault::Fault::from_status(&status).unwrap();
        assert_eq!(fault.code, codes::NO_LEADER);
        assert!(fault.hint.contains("majority"), "{}", fault.hint);
    }

    #[test]
    fn the_stores_errors_keep_their_code_and_text() {
        for error in [
            StoreError::EmptyKey,
            StoreError::Compacted,
            StoreError::NoSpace,
            StoreError::LeaseNotFound,
            StoreError::TooManyOps,
            StoreError::OverQuota { prefix: "a/".into(), what: "keys", limit: 5, used: 5 },
            StoreError::NoQuota,
            StoreError::TooManyQuotas,
            StoreError::Engine("disk".into()),
        ] {
            let status = store(error.clone());
            assert_eq!(status.code(), error.code(), "{error}");
            assert_eq!(status.message(), error.to_string());
            assert!(status.metadata().contains_key("plasma-code"), "{error}");
            assert!(status.metadata().contains_key("plasma-hint"), "{error}");
        }
    }

    /// With hints that cannot be empty this makes every answer of a service carry one.
    #[test]
    fn services_refuse_from_here_alone() {
        let root = std::env::var("CARGO_MANIFEST_DIR").expect("run by cargo");
        let source = std::path::PathBuf::from(root).join("src");
        let mut folders: Vec<_> =
            ["server", "gossip", "gateway"].map(|name| source.join(name)).into();
        let makers = [
            "new",
            "with_details",
            "with_metadata",
            "cancelled",
            "unknown",
            "invalid_argument",
            "deadline_exceeded",
            "not_found",
            "already_exists",
            "permission_denied",
            "resource_exhausted",
            "failed_precondition",
            "aborted",
            "out_of_range",
            "unimplemented",
            "internal",
            "unavailable",
            "data_loss",
            "unauthenticated",
        ];
        let makers = makers.map(|name| format!("Status::{name}("));
        let mut read = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.ends_with("refusal.rs") {
                    continue;
                }
                read += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let served = text.split("#[cfg(test)]").next().unwrap_or_default();
                for maker in &makers {
                    assert!(!served.contains(maker), "{}: {maker}", path.display());
                }
            }
        }
        assert!(read > 35, "only {read} files were looked at");
    }
}
