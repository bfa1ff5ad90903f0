//! Logging in: name and password become a token, which goes with every call and is renewed when a
//! member does not believe it any more.
//!
//! Absent on purpose: passwords in arguments or in `Debug`. They come from a file or a caller that
//! has one already.

use crate::Error;
use crate::verdict::{Verdict, describe, judge};
use api::etcdserverpb::AuthenticateRequest;
use api::etcdserverpb::auth_client::AuthClient;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

/// A connection to one member that says who calls.
pub(crate) type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// Name and password of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A user and the password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Credentials {
        Credentials { user: user.into(), password: password.into() }
    }

    /// From the first line of a file, `user:password`. The file must be its owner's alone (mode 0600
    /// or less): a password belongs neither in arguments nor where others read.
    ///
    /// # Errors
    /// The file cannot be read, others can read it, or its first line has no colon.
    pub fn from_file(path: &Path) -> Result<Credentials, Error> {
        use std::os::unix::fs::PermissionsExt;
        let shown = path.display();
        let unreadable =
            |error| Error::invalid(format!("{shown} cannot be read: {error}"), "check the path");
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        if mode & 0o077 != 0 {
            let what = format!("{shown} can be read by others (mode {:o})", mode & 0o777);
            return Err(Error::invalid(what, "chmod 600 it, and change the password"));
        }
        let line = text.lines().next().unwrap_or_default();
        match line.split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Credentials::new(user, password)),
            _ => Err(Error::invalid(
                format!("{shown} does not begin with user:password"),
                "write both on the first line, with a colon between them",
            )),
        }
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// Puts the token, if there is one, into every call.
#[derive(Clone, Default)]
pub(crate) struct Bearer(Arc<RwLock<Token>>);

#[derive(Default)]
struct Token {
    value: Option<MetadataValue<Ascii>>,
    /// Grows with each login.
    login: u64,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &token.value {
            request.metadata_mut().insert("token", value.clone());
        }
        Ok(request)
    }
}

/// What a call carries: the token of this login, if that got one. Login 0: there was none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) login: u64,
    named: bool,
}

/// Who this client is, and the token that says so.
#[derive(Default)]
pub(crate) struct Login {
    credentials: Option<Credentials>,
    bearer: Bearer,
    /// One login at a time.
    one: tokio::sync::Mutex<()>,
}

impl Login {
    pub(crate) fn new(credentials: Option<Credentials>) -> Login {
        Login { credentials, ..Login::default() }
    }

    pub(crate) fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }

    /// What calls carry now.
    pub(crate) fn carried(&self) -> Carried {
        let token = self.bearer.0.read().unwrap_or_else(PoisonError::into_inner);
        Carried { login: token.login, named: token.value.is_some() }
    }

    /// Whether a login is to be made before anything is called.
    pub(crate) fn is_due(&self) -> bool {
        self.credentials.is_some() && self.carried().login == 0
    }

    /// Whether logging in again can help against the refusal of a call: nothing was done then. One
    /// that carried no token may have been taken for somebody else, whose certificate this is.
    pub(crate) fn helps(&self, text: &str, carried: Carried) -> bool {
        let any = |texts: &[&str]| texts.iter().any(|known| text.contains(known));
        self.credentials.is_some() && (any(&STALE) || (!carried.named && any(&DENIED)))
    }

    /// Logs in, unless somebody has since `seen`. A member that asks nobody is content without.
    pub(crate) async fn renew(
        &self,
        seen: u64,
        member: tonic::transport::Channel,
    ) -> Result<(), Verdict> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let _one = self.one.lock().await;
        if self.carried().login != seen {
            return Ok(());
        }
        let request = AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.clone(),
        };
        let value = match AuthClient::new(member).authenticate(request).await {
            Ok(answer) => {
                let token = answer.into_inner().token.parse();
                let what = "a token that is no header".to_owned();
                Some(token.map_err(|_| Verdict::Refused(Error::Protocol(what)))?)
            }
            Err(status) if status.message().contains(OFF) => None,
            Err(status) => {
                tracing::debug!(user = credentials.user, why = describe(&status), "not logged in");
                return Err(match judge(&status) {
                    // a login changes nothing: it can be tried again
                    Verdict::Lost => Verdict::NothingDone { no_leader: false },
                    other => other,
                });
            }
        };
        let mut token = self.bearer.0.write().unwrap_or_else(PoisonError::into_inner);
        *token = Token { value, login: seen + 1 };
        Ok(())
    }
}

/// By these a member says that it does not know the caller any more, or yet.
const STALE: [&str; 3] = [
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
];
const DENIED: [&str; 1] = ["etcdserver: permission denied"];
const OFF: &str = "etcdserver: authentication is not enabled";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_password_comes_from_a_file_that_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let written = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Credentials::from_file(&path)
        };
        let found = written("ann:a:b\nmore", 0o600).unwrap();
        assert_eq!(found, Credentials::new("ann", "a:b"));
        assert_eq!(format!("{found:?}"), "Credentials { user: \"ann\", .. }");
        assert!(written("ann:pw", 0o644).unwrap_err().to_string().contains("chmod 600"));
        assert!(written("annpw", 0o600).unwrap_err().to_string().contains("user:password"));
        assert!(written(":pw", 0o600).is_err() && written("", 0o600).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(Credentials::from_file(&path).is_err());
    }
}
