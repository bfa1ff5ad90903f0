//! The Auth service: users, roles, tokens.
//!
//! Changes go through the log, which judges whether the caller is root; reads come from what is
//! applied. Passwords end here: what goes on is their hash.

mod caller;
mod password;
mod token;

use std::sync::Arc;

use api::chainfire_internal::auth_change::Change;
use api::chainfire_internal::command::Request as Command;
use api::chainfire_internal::{AuthChange, AuthEnable};
use api::etcdserverpb::auth_server::Auth;
use api::etcdserverpb::*;
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tonic::{Request, Response, Status};

pub(crate) use caller::{Caller, MemberPort};
pub(crate) use password::Passwords;

use super::node::{Node, mismatch};
use super::refusal;
use super::tally::Tally;
use crate::store::auth::{MAX_NAME, TOKEN_KEY};
use crate::store::{AuthError, Reply};

pub(crate) struct AuthService(pub(crate) Arc<Node>);

impl AuthService {
    /// Who calls; a call that would rather fail than wait for a leader fails.
    async fn begin<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.0.demand_leader(request.metadata())?;
        self.0.caller(request).await
    }

    /// As [`AuthService::begin`], for root alone.
    async fn begin_as_root<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.0.demand_leader(request.metadata())?;
        let caller = self.0.stream_caller(request).await?;
        self.0.allow_root(&caller).await?;
        Ok(caller)
    }

    async fn change(
        &self,
        caller: &Caller,
        what: &'static str,
        change: Change,
    ) -> Result<Option<ResponseHeader>, Status> {
        let node = &self.0;
        let command = Command::Auth(AuthChange { change: Some(change) });
        match node.propose_as(caller, command).await? {
            Reply::Auth => {
                let by = caller.principal(&node.reader.auth()).map(|who| who.user);
                tracing::info!(what, by, "users and roles changed");
                Ok(self.header())
            }
            _ => Err(mismatch()),
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        self.0.headers.at(self.0.reader.revision())
    }

    /// What is known of users and roles, once everything acknowledged is in it.
    async fn known(&self) -> Result<Arc<crate::store::Auth>, Status> {
        self.0.barrier().await?;
        Ok(self.0.reader.auth())
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let mut key = [0; TOKEN_KEY];
        SystemRandom::new().fill(&mut key).map_err(|_| Status::from(&refusal::NO_RANDOM))?;
        let enable = AuthEnable { token_key: Bytes::copy_from_slice(&key) };
        let header = self.change(&caller, "auth enable", Change::Enable(enable)).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::Disable(request.into_inner());
        let header = self.change(&caller, "auth disable", change).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        self.begin(&request).await?;
        let auth = self.known().await?;
        let (enabled, auth_revision) = (auth.enabled(), auth.revision());
        Ok(Response::new(AuthStatusResponse { header: self.header(), enabled, auth_revision }))
    }

    /// Nothing goes through the log: a token says at which revision the password was compared, and is
    /// not believed where the user's is newer.
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let auth = self.known().await?;
        if !auth.enabled() {
            return Err(Status::from(&refusal::AUTH_OFF));
        }
        let AuthenticateRequest { name, password } = request.into_inner();
        // no user is called so, and the log is to hold no megabytes that anybody sends
        if name.len() > MAX_NAME {
            Tally::Login.add();
            return Err(Status::from(&refusal::AUTH_FAILED));
        }
        let hash = auth.user(&name).and_then(|user| user.password()).cloned();
        if !node.passwords.compare(password, hash).await? {
            tracing::info!(user = name, "authentication failed");
            Tally::Login.add();
            return Err(Status::from(&refusal::AUTH_FAILED));
        }
        let expires = caller::now().saturating_add(node.token_seconds);
        let claims = token::Claims { user: name, revision: auth.revision(), expires };
        let token = token::sign(auth.token_key(), &claims);
        Ok(Response::new(AuthenticateResponse { header: self.header(), token }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let mut request = request.into_inner();
        if request.name.is_empty() {
            return Err(refusal::auth(AuthError::UserEmpty));
        }
        let password = std::mem::take(&mut request.password);
        if request.options.unwrap_or_default().no_password {
            request.hashed_password.clear();
        } else if !password.is_empty() {
            request.hashed_password = self.0.passwords.hash(password).await?;
        } else if !request.hashed_password.is_empty() {
            password::taken_over(&request.hashed_password)?;
        }
        let header = self.change(&caller, "user add", Change::UserAdd(request)).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let caller = self.begin(&request).await?;
        let name = request.into_inner().name;
        let auth = self.known().await?;
        let own = caller.principal(&auth).is_some_and(|who| who.user == name);
        if !own {
            caller
                .check(&auth, &|_| Vec::new(), |guard| guard.auth.check_root(guard.who))
                .map_err(refusal::auth)?;
        }
        let user = auth.user(&name).ok_or_else(|| refusal::auth(AuthError::UserNotFound))?;
        let roles = user.roles().to_vec();
        Ok(Response::new(AuthUserGetResponse { header: self.header(), roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        self.begin_as_root(&request).await?;
        let users = self.known().await?.users().cloned().collect();
        Ok(Response::new(AuthUserListResponse { header: self.header(), users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::UserDelete(request.into_inner());
        let header = self.change(&caller, "user delete", change).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let mut request = request.into_inner();
        let password = std::mem::take(&mut request.password);
        if !password.is_empty() {
            request.hashed_password = self.0.passwords.hash(password).await?;
        } else if !request.hashed_password.is_empty() {
            password::taken_over(&request.hashed_password)?;
        }
        let change = Change::UserChangePassword(request);
        let header = self.change(&caller, "user change password", change).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::UserGrantRole(request.into_inner());
        let header = self.change(&caller, "user grant role", change).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::UserRevokeRole(request.into_inner());
        let header = self.change(&caller, "user revoke role", change).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::RoleAdd(request.into_inner());
        let header = self.change(&caller, "role add", change).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let caller = self.begin(&request).await?;
        let role = request.into_inner().role;
        let auth = self.known().await?;
        let who = caller.principal(&auth);
        let user = who.and_then(|who| auth.user(&who.user));
        let own = user.is_some_and(|user| user.roles().contains(&role));
        if !own {
            caller
                .check(&auth, &|_| Vec::new(), |guard| guard.auth.check_root(guard.who))
                .map_err(refusal::auth)?;
        }
        let perm = auth.permissions(&role).ok_or_else(|| refusal::auth(AuthError::RoleNotFound))?;
        Ok(Response::new(AuthRoleGetResponse { header: self.header(), perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        self.begin_as_root(&request).await?;
        let roles = self.known().await?.roles().cloned().collect();
        Ok(Response::new(AuthRoleListResponse { header: self.header(), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::RoleDelete(request.into_inner());
        let header = self.change(&caller, "role delete", change).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::RoleGrantPermission(request.into_inner());
        let header = self.change(&caller, "role grant permission", change).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let caller = self.begin_as_root(&request).await?;
        let change = Change::RoleRevokePermission(request.into_inner());
        let header = self.change(&caller, "role revoke permission", change).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}
