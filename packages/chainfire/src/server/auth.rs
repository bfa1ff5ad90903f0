//! The Auth service: authentication by users is off. Clients are known by their certificates;
//! etcd's users and roles come as a view of IAM's principals.

use std::sync::Arc;

use api::etcdserverpb::auth_server::Auth;
use api::etcdserverpb::*;
use tonic::{Request, Response, Status};

use super::node::Node;
use super::refusal;

pub(crate) struct AuthService(pub(crate) Arc<Node>);

/// Calls that come with IAM.
macro_rules! later {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl Auth for AuthService {
            async fn auth_status(
                &self,
                _: Request<AuthStatusRequest>,
            ) -> Result<Response<AuthStatusResponse>, Status> {
                let header = self.0.headers.at(self.0.reader.revision());
                Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
            }

            async fn authenticate(
                &self,
                _: Request<AuthenticateRequest>,
            ) -> Result<Response<AuthenticateResponse>, Status> {
                Err(Status::from(&refusal::AUTH_OFF))
            }

            async fn auth_disable(
                &self,
                _: Request<AuthDisableRequest>,
            ) -> Result<Response<AuthDisableResponse>, Status> {
                let header = self.0.headers.at(self.0.reader.revision());
                Ok(Response::new(AuthDisableResponse { header }))
            }

            $(async fn $name(
                &self,
                _: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Err(Status::from(&refusal::AUTH_LATER))
            })*
        }
    };
}

later! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse;
    user_add(AuthUserAddRequest) -> AuthUserAddResponse;
    user_get(AuthUserGetRequest) -> AuthUserGetResponse;
    user_list(AuthUserListRequest) -> AuthUserListResponse;
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
    role_list(AuthRoleListRequest) -> AuthRoleListResponse;
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}
