//! Carries out changes of users and roles, by etcd's rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::authpb::{Permission, Role, User as Kept};
use api::chainfire_internal::auth_change::Change;
use api::chainfire_internal::{AuthChange, AuthEnable, AuthUser};
use api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest,
};
use base64::Engine;
use bytes::Bytes;

use super::grants::Grants;
use super::{Auth, AuthError, ROOT, User};
use crate::store::{KeyRange, MAX_KEY, StoreError};

/// The longest name of a user or role, in bytes.
pub(crate) const MAX_NAME: usize = 1024;

impl Auth {
    /// The state after a change. The change was admitted: its proposer is root, or auth is off.
    pub(in crate::store) fn change(&self, change: &AuthChange) -> Result<Auth, StoreError> {
        let mut next = self.clone();
        let grows = match &change.change {
            Some(Change::Enable(enable)) => next.enable(enable)?,
            Some(Change::Disable(_)) => next.disable(),
            Some(Change::UserAdd(add)) => next.user_add(add)?,
            Some(Change::UserDelete(delete)) => next.user_delete(&delete.name)?,
            Some(Change::UserChangePassword(change)) => next.user_change_password(change)?,
            Some(Change::UserGrantRole(grant)) => next.user_grant_role(&grant.user, &grant.role)?,
            Some(Change::UserRevokeRole(revoke)) => {
                next.user_revoke_role(&revoke.name, &revoke.role)?
            }
            Some(Change::RoleAdd(add)) => next.role_add(&add.name)?,
            Some(Change::RoleDelete(delete)) => next.role_delete(&delete.role)?,
            Some(Change::RoleGrantPermission(grant)) => next.role_grant_permission(grant)?,
            Some(Change::RoleRevokePermission(revoke)) => next.role_revoke_permission(revoke)?,
            None => return Err(StoreError::Malformed),
        };
        next.revision += u64::from(grows);
        Ok(next)
    }

    /// The state after some changes that can be made.
    #[cfg(test)]
    pub(crate) fn after(&self, changes: impl IntoIterator<Item = Change>) -> Auth {
        changes.into_iter().fold(self.clone(), |auth, change| {
            auth.change(&AuthChange { change: Some(change) }).unwrap()
        })
    }

    /// Enabling once more changes nothing: tokens that are out stay good.
    fn enable(&mut self, request: &AuthEnable) -> Result<bool, AuthError> {
        if !self.enabled {
            let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
            if !root.root {
                return Err(AuthError::RootRoleNotExist);
            }
            self.enabled = true;
            self.token_key = Bytes::copy_from_slice(&request.token_key);
        }
        Ok(false)
    }

    fn disable(&mut self) -> bool {
        std::mem::replace(&mut self.enabled, false)
    }

    fn user_add(&mut self, request: &AuthUserAddRequest) -> Result<bool, StoreError> {
        if request.name.is_empty() {
            return Err(AuthError::UserEmpty.into());
        }
        check_name(&request.name)?;
        if self.users.contains_key(&request.name) {
            return Err(AuthError::UserExists.into());
        }
        let options = request.options.unwrap_or_default();
        let password = match options.no_password {
            true => Bytes::new(),
            false => hashed(&request.hashed_password)?,
        };
        let user = Kept {
            name: Bytes::copy_from_slice(request.name.as_bytes()),
            password,
            roles: Vec::new(),
            options: Some(options),
        };
        self.put_user(AuthUser { user: Some(user), since: self.revision + 1 });
        Ok(true)
    }

    fn user_delete(&mut self, name: &str) -> Result<bool, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        Ok(true)
    }

    fn user_change_password(
        &mut self,
        request: &AuthUserChangePasswordRequest,
    ) -> Result<bool, StoreError> {
        let mut kept = self.kept(&request.name)?;
        if let Some(user) = &mut kept.user
            && !user.options.is_some_and(|options| options.no_password)
        {
            user.password = hashed(&request.hashed_password)?;
        }
        kept.since = self.revision + 1;
        self.put_user(kept);
        Ok(true)
    }

    fn user_grant_role(&mut self, name: &str, role: &str) -> Result<bool, AuthError> {
        let mut kept = self.kept(name)?;
        // the role root needs not exist to be granted
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(AuthError::RoleNotFound);
        }
        let Some(user) = &mut kept.user else { return Err(AuthError::UserNotFound) };
        let Err(place) = user.roles.binary_search_by(|had| had.as_str().cmp(role)) else {
            return Ok(false);
        };
        user.roles.insert(place, role.to_owned());
        self.put_user(kept);
        Ok(true)
    }

    fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<bool, AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let mut kept = self.kept(name)?;
        if !without_role(&mut kept, role) {
            return Err(AuthError::RoleNotGranted);
        }
        self.put_user(kept);
        Ok(true)
    }

    fn role_add(&mut self, name: &str) -> Result<bool, StoreError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty.into());
        }
        check_name(name)?;
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists.into());
        }
        let role =
            Role { name: Bytes::copy_from_slice(name.as_bytes()), key_permission: Vec::new() };
        self.roles.insert(name.to_owned(), Arc::new(role));
        Ok(true)
    }

    fn role_delete(&mut self, name: &str) -> Result<bool, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        for mut kept in self.holders(name) {
            without_role(&mut kept, name);
            self.put_user(kept);
        }
        Ok(true)
    }

    fn role_grant_permission(
        &mut self,
        request: &AuthRoleGrantPermissionRequest,
    ) -> Result<bool, StoreError> {
        let given = request.perm.as_ref().ok_or(AuthError::PermissionNotGiven)?;
        check_permission(given)?;
        let role = self.roles.get(&request.name).ok_or(AuthError::RoleNotFound)?;
        let mut role = Role::clone(role);
        let permissions = &mut role.key_permission;
        let at = |p: &Permission| (p.key.clone(), p.range_end.clone());
        match permissions.iter_mut().find(|had| at(had) == at(given)) {
            Some(had) => had.perm_type = given.perm_type,
            None => {
                // out of the command's buffer
                permissions.push(Permission {
                    perm_type: given.perm_type,
                    key: Bytes::copy_from_slice(&given.key),
                    range_end: Bytes::copy_from_slice(&given.range_end),
                });
                permissions.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
            }
        }
        self.roles.insert(request.name.clone(), Arc::new(role));
        self.regrant(&request.name);
        Ok(true)
    }

    fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Result<bool, AuthError> {
        let role = self.roles.get(&request.role).ok_or(AuthError::RoleNotFound)?;
        let mut role = Role::clone(role);
        let had = role.key_permission.len();
        role.key_permission
            .retain(|p| (&p.key, &p.range_end) != (&request.key, &request.range_end));
        if role.key_permission.len() == had {
            return Err(AuthError::PermissionNotGranted);
        }
        self.roles.insert(request.role.clone(), Arc::new(role));
        self.regrant(&request.role);
        Ok(true)
    }

    fn kept(&self, name: &str) -> Result<AuthUser, AuthError> {
        self.users.get(name).map(|user| user.kept.clone()).ok_or(AuthError::UserNotFound)
    }

    fn holders(&self, role: &str) -> Vec<AuthUser> {
        let has = |user: &&Arc<User>| user.roles().iter().any(|had| had == role);
        self.users.values().filter(has).map(|user| user.kept.clone()).collect()
    }

    /// Works out anew what the users of a role may touch.
    fn regrant(&mut self, role: &str) {
        for kept in self.holders(role) {
            self.put_user(kept);
        }
    }

    fn put_user(&mut self, kept: AuthUser) {
        if let Some((name, user)) = compiled(kept, &self.roles) {
            self.users.insert(name, Arc::new(user));
        }
    }
}

/// A user with what follows from its roles; none if the record names nobody.
pub(super) fn compiled(
    kept: AuthUser,
    roles: &BTreeMap<String, Arc<Role>>,
) -> Option<(String, User)> {
    let user = kept.user.as_ref()?;
    let name = String::from_utf8(user.name.to_vec()).ok()?;
    let permissions =
        user.roles.iter().filter_map(|role| roles.get(role)).flat_map(|role| &role.key_permission);
    let grants = Grants::of(permissions);
    let root = user.roles.iter().any(|role| role == ROOT);
    Some((name, User { kept, root, grants }))
}

fn without_role(kept: &mut AuthUser, role: &str) -> bool {
    let Some(user) = &mut kept.user else { return false };
    let had = user.roles.len();
    user.roles.retain(|held| held != role);
    user.roles.len() < had
}

/// What the proposer hashed, out of base64. Empty: the user has no password and cannot log in.
fn hashed(text: &str) -> Result<Bytes, StoreError> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.map(Bytes::from).map_err(|_| StoreError::Malformed)
}

fn check_name(name: &str) -> Result<(), StoreError> {
    if name.len() > MAX_NAME { Err(StoreError::TooLarge) } else { Ok(()) }
}

/// A key, a range that is not upside down, or one open to the end.
fn check_permission(permission: &Permission) -> Result<(), StoreError> {
    let (key, end) = (&permission.key, &permission.range_end);
    if key.len() > MAX_KEY || end.len() > MAX_KEY {
        return Err(StoreError::TooLarge);
    }
    let is_known = api::authpb::permission::Type::try_from(permission.perm_type).is_ok();
    if key.is_empty() || KeyRange::new(key, end).is_empty() || !is_known {
        return Err(AuthError::InvalidManagement.into());
    }
    Ok(())
}
