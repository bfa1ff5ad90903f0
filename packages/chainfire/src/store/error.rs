//! What the store refuses, in etcd's words: client libraries match on code and text.

use tonic::{Code, Status};

use super::AuthError;

/// Why a request was not carried out. Text and code are etcd's where etcd has the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key is empty.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// A value together with `ignore_value`.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A lease together with `ignore_lease`.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More operations in a transaction than allowed.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// Two operations of a transaction may write the same key.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A key of more than [`super::MAX_KEY`] bytes.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// An unknown sort order or target.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// The revision lies below the compaction.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The NOSPACE alarm is raised.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is raised.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// There is no such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease of this id exists.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// More than [`super::MAX_LEASE_TTL`] seconds.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The bytes in the log are not a command. Every member refuses them alike.
    #[error("chainfire: malformed command")]
    Malformed,
    /// The proposer of an expiry or a note was not the lessor when it was applied.
    #[error("chainfire: not the lessor any more")]
    NotLessor,
    /// A namespace would hold more than it may.
    #[error(
        "chainfire: quota of namespace \"{prefix}\" exceeded: {used} of {limit} {what} are used; delete \
         keys under it, or have root raise the quota"
    )]
    OverQuota {
        /// What the namespace's keys begin with, with escapes.
        prefix: String,
        /// Keys or bytes.
        what: &'static str,
        /// How many it may hold.
        limit: u64,
        /// How many it holds.
        used: i64,
    },
    /// There are no limits of this prefix.
    #[error("chainfire: this namespace has no quota")]
    NoQuota,
    /// More than [`super::QUOTAS_MAX`] namespaces.
    #[error("chainfire: too many namespaces have quotas")]
    TooManyQuotas,
    /// Users, roles or permissions stand in the way.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The engine failed a read; the text says how.
    #[error("chainfire: storage engine: {0}")]
    Engine(String),
}

impl StoreError {
    /// The gRPC code that etcd gives it.
    pub fn code(&self) -> Code {
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::TooLarge
            | Self::Malformed => Code::InvalidArgument,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => Code::OutOfRange,
            Self::NoSpace | Self::OverQuota { .. } | Self::TooManyQuotas => Code::ResourceExhausted,
            Self::LeaseNotFound | Self::NoQuota => Code::NotFound,
            Self::LeaseExists | Self::NotLessor => Code::FailedPrecondition,
            Self::Corrupt => Code::DataLoss,
            Self::Auth(error) => error.code(),
            Self::Engine(_) => Code::Internal,
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}
