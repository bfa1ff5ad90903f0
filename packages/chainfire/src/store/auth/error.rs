//! What the auth store refuses, in etcd's words: client libraries match on code and text.

use tonic::Code;

/// Why users, roles or permissions stand in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Authentication cannot be enabled without the user `root`.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// The user `root` must have the role `root` first.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A user of this name exists.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// Nobody is named; for a request: it came without a token or certificate.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// There is no such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of this name exists.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// There is no such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role needs a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// The user may not do this.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The user does not have the role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// What was proved was proved before the user's credentials changed.
    #[error("etcdserver: revision of auth store is old")]
    OldRevision,
    /// It would lock everybody out, or names no range.
    #[error("etcdserver: invalid auth management")]
    InvalidManagement,
}

impl AuthError {
    /// The gRPC code that etcd gives it.
    pub fn code(self) -> Code {
        match self {
            Self::UserEmpty
            | Self::RoleEmpty
            | Self::PermissionNotGiven
            | Self::OldRevision
            | Self::InvalidManagement => Code::InvalidArgument,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::RootUserNotExist
            | Self::RootRoleNotExist
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted => Code::FailedPrecondition,
        }
    }
}
