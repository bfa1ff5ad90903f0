//! Users, roles, and what they may touch.
//!
//! Part of the replicated state: changed by commands in the log alone, and every command of a
//! client is judged when it is applied, so that all members refuse alike however permissions change
//! between the request and its place in the log.
//!
//! What must stay true:
//! - No password reaches the log or the store; the proposer hashes it.
//! - The revision grows with every change but that of enabling, as in etcd.
//! - Whoever proved who they are at some revision is not believed once the user's password changed,
//!   or the user was deleted, after that revision. A change of permissions asks nobody to log in
//!   again: they are looked up each time.
//! - With authentication disabled every check passes before anything is looked up.

mod change;
mod error;
mod grants;
pub mod guard;
mod record;
mod signal;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::authpb::{Permission, Role};
use api::chainfire_internal::{AuthUser, Principal};
use bytes::Bytes;

pub(crate) use change::MAX_NAME;
pub use error::AuthError;
pub use grants::Access;
use grants::Grants;
pub(crate) use record::TOKEN_KEY;
pub(super) use record::{changed, load, rekey, whole};
pub(super) use signal::AuthSignal;

use super::KeyRange;

/// The user and the role that may do everything.
pub const ROOT: &str = "root";

/// A user as it is kept, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    kept: AuthUser,
    root: bool,
    grants: Grants,
}

impl User {
    /// The roles, in order.
    pub fn roles(&self) -> &[String] {
        self.kept.user.as_ref().map_or(&[], |user| &user.roles)
    }

    /// The hashed password; none for a user who cannot log in with one.
    pub fn password(&self) -> Option<&Bytes> {
        let user = self.kept.user.as_ref()?;
        let without = user.options.is_some_and(|options| options.no_password);
        (!without && !user.password.is_empty()).then_some(&user.password)
    }

    /// What was proved before this revision counts no longer.
    pub fn since(&self) -> u64 {
        self.kept.since
    }

    /// Whether the user may do everything.
    pub fn is_root(&self) -> bool {
        self.root
    }
}

/// All users and roles at one revision of auth. Cloning copies no user and no role.
#[derive(Debug, Clone)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    token_key: Bytes,
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Default for Auth {
    fn default() -> Auth {
        // etcd's store begins at 1
        Auth {
            enabled: false,
            revision: 1,
            token_key: Bytes::new(),
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl Auth {
    /// Whether users and roles count.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Signs tokens; empty until authentication is enabled for the first time.
    pub fn token_key(&self) -> &Bytes {
        &self.token_key
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(Arc::as_ref)
    }

    /// The names of all users, in order.
    pub fn users(&self) -> impl Iterator<Item = &String> {
        self.users.keys()
    }

    /// The names of all roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.keys()
    }

    /// The permissions of a role; none if there is no such role.
    pub fn permissions(&self, role: &str) -> Option<Vec<Permission>> {
        let found = self.roles.get(role)?;
        if role == ROOT {
            let kind = api::authpb::permission::Type::Readwrite as i32;
            let range_end = Bytes::from_static(&[0]);
            return Some(vec![Permission { perm_type: kind, key: Bytes::new(), range_end }]);
        }
        Some(found.key_permission.clone())
    }

    /// The user behind a request, while authentication is enabled.
    fn known(&self, who: Option<&Principal>) -> Result<Option<&User>, AuthError> {
        let who = who.filter(|who| !who.user.is_empty()).ok_or(AuthError::UserEmpty)?;
        let user = self.user(&who.user);
        if user.is_some_and(|user| who.auth_revision < user.since()) {
            return Err(AuthError::OldRevision);
        }
        Ok(user)
    }

    /// Whoever asks must be a user.
    pub fn check_user(&self, who: Option<&Principal>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        self.known(who)?.map(drop).ok_or(AuthError::PermissionDenied)
    }

    /// Whoever asks must have the role root.
    pub fn check_root(&self, who: Option<&Principal>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        match self.known(who)? {
            None => Err(AuthError::UserNotFound),
            Some(user) if user.root => Ok(()),
            Some(_) => Err(AuthError::PermissionDenied),
        }
    }

    /// Whoever asks must have this access to all keys of the range.
    pub fn check(
        &self,
        who: Option<&Principal>,
        access: Access,
        range: &KeyRange,
    ) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        match self.known(who)? {
            Some(user) if user.root || user.grants.covers(access, range) => Ok(()),
            _ => Err(AuthError::PermissionDenied),
        }
    }

    /// Whether whoever asks may do everything, or nobody is asked.
    pub fn is_root(&self, who: Option<&Principal>) -> bool {
        self.check_root(who).is_ok()
    }
}
