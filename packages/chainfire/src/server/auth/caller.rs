//! Who calls: by token, else by certificate.
//!
//! A certificate of the cluster stands for the first of these users that exists:
//!
//! | certificate | users |
//! |---|---|
//! | `spiffe://<cluster>/svc/<service>/<node>` | `svc/<service>/<node>`, `svc/<service>` |
//! | `spiffe://<cluster>/node/<node>` | `node/<node>` |
//! | `spiffe://<cluster>/operator/<name>` | `operator/<name>`, then the common name as in etcd |
//! | without such an id | the common name, as in etcd |
//!
//! Machines and services are never known by their common name: a machine may be called as a user is.
//! Members among themselves, on the peer port, are not asked.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use api::chainfire_internal::command::Request as Command;
use http::Extensions;
use identity::SpiffeId;
use rpc::Peer;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::token;
use crate::server::node::Node;
use crate::server::refusal;
use crate::server::tally::Tally;
use crate::store::auth::guard::Guard;
use crate::store::{Auth, AuthError, Principal, Reply, encode, encode_as};

/// Where clients put a token.
const TOKEN: &str = "token";
const AUTHORIZATION: &str = "authorization";

/// Marks requests that came in where members speak to each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberPort;

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Did not say, or nobody asks.
    Nobody,
    /// Has shown a token, which is good until then, in seconds since 1970.
    Token(Principal, u64),
    /// Has shown a certificate that stands for one of these users.
    Certificate(Arc<[String]>),
    /// Another member.
    Member,
}

impl Caller {
    /// The user, by what is known of users now.
    pub(crate) fn principal(&self, auth: &Auth) -> Option<Principal> {
        match self {
            Caller::Nobody | Caller::Member => None,
            Caller::Token(principal, _) => Some(principal.clone()),
            Caller::Certificate(names) => {
                let known = names.iter().find(|name| auth.user(name).is_some());
                let user = known.or(names.first())?.clone();
                Some(Principal { user, auth_revision: auth.revision() })
            }
        }
    }

    /// The same, for one call that takes long: its token was good when it began.
    pub(crate) fn lasting(self) -> Caller {
        match self {
            Caller::Token(principal, _) => Caller::Token(principal, u64::MAX),
            other => other,
        }
    }

    /// Whether it was proved too long ago who calls. Whoever lets something begin on a stream asks
    /// this; what has begun goes on, as in etcd.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Caller::Token(_, expires) if *expires <= now())
    }

    /// Holds a request against what the caller may do.
    pub(crate) fn check(
        &self,
        auth: &Auth,
        leases: &dyn Fn(i64) -> Vec<bytes::Bytes>,
        check: impl FnOnce(Guard<'_>) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        if !auth.enabled() || matches!(self, Caller::Member) {
            return Ok(());
        }
        let who = self.principal(auth);
        check(Guard { auth, who: who.as_ref(), leases })
    }
}

impl Node {
    /// Who makes a call. Costs next to nothing while authentication is disabled.
    ///
    /// # Errors
    /// The token is none of ours, is too old, or its user has gone.
    pub(crate) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.caller_of(request.metadata(), request.extensions()).await
    }

    /// As [`Node::caller`], for what was taken apart already.
    pub(crate) async fn caller_of(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Caller, Status> {
        let shown = shown_token(metadata);
        if !self.reader.auth_enabled() && shown.is_none() {
            return Ok(Caller::Nobody);
        }
        self.caller_by(shown, extensions).await
    }

    /// As [`Node::caller`], for calls that go on for long, and for those that hear more before they
    /// judge: who it is stays known also when authentication turns out to be enabled.
    pub(crate) async fn stream_caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.caller_by(shown_token(request.metadata()), request.extensions()).await
    }

    async fn caller_by(
        &self,
        shown: Option<&str>,
        extensions: &Extensions,
    ) -> Result<Caller, Status> {
        let peer = extensions.get::<Peer>();
        if extensions.get::<MemberPort>().is_some() && self.peers.member(peer).is_ok() {
            return Ok(Caller::Member);
        }
        let Some(shown) = shown else { return Ok(self.by_certificate(peer)) };
        if let Some(caller) = self.by_token(shown) {
            return Ok(caller);
        }
        // Another member may know more than this one does yet.
        if token::is_ours(shown) {
            self.barrier().await?;
            if let Some(caller) = self.by_token(shown) {
                return Ok(caller);
            }
        }
        if self.reader.auth_enabled() {
            Tally::Token.add();
            Err(Status::from(&refusal::INVALID_TOKEN))
        } else {
            Ok(self.by_certificate(peer))
        }
    }

    fn by_token(&self, shown: &str) -> Option<Caller> {
        let auth = self.reader.auth();
        if !auth.enabled() {
            return None;
        }
        let claims = token::verify(auth.token_key(), shown)?;
        let user = auth.user(&claims.user)?;
        let good = claims.expires > now() && claims.revision >= user.since();
        let (user, auth_revision) = (claims.user, claims.revision);
        good.then_some(Caller::Token(Principal { user, auth_revision }, claims.expires))
    }

    fn by_certificate(&self, peer: Option<&Peer>) -> Caller {
        let names = peer.map(|peer| users_of(peer, self.peers.cluster().as_deref()));
        match names {
            Some(names) if !names.is_empty() => Caller::Certificate(names.into()),
            _ => Caller::Nobody,
        }
    }

    /// Refuses early what will be refused when it is applied, so that it costs no place in the log.
    /// This member may not have heard of a grant: it asks the others before it refuses.
    pub(crate) async fn allow(
        &self,
        caller: &Caller,
        check: impl Fn(Guard<'_>) -> Result<(), AuthError>,
    ) -> Result<(), Status> {
        if !self.reader.auth_enabled() || self.allows(caller, &check).is_ok() {
            return Ok(());
        }
        self.barrier().await?;
        self.allows(caller, &check).map_err(refusal::auth)
    }

    /// Whether a caller may do something, as far as this member knows.
    pub(crate) fn allows(
        &self,
        caller: &Caller,
        check: impl FnOnce(Guard<'_>) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let leases = |id| self.reader.lease_keys(id).unwrap_or_default();
        caller.check(&self.reader.auth(), &leases, check)
    }

    /// Only root may do this. Nobody judges again what does not go through the log: everything that
    /// was acknowledged of users counts here, and what was decided before is in the reader.
    pub(crate) async fn allow_root(&self, caller: &Caller) -> Result<(), Status> {
        self.barrier().await?;
        self.allows(caller, |guard| guard.auth.check_root(guard.who)).map_err(refusal::auth)
    }

    /// As [`Node::allow_root`], by what this member knows: for what must go on without a majority.
    pub(crate) async fn allow_root_here(&self, caller: &Caller) -> Result<(), Status> {
        self.allow(caller, |guard| guard.auth.check_root(guard.who)).await
    }

    /// Whoever has shown a token or a certificate of the cluster may do this.
    pub(crate) fn allow_known(&self, caller: &Caller) -> Result<(), Status> {
        match caller {
            Caller::Nobody if self.reader.auth_enabled() => {
                Err(refusal::auth(AuthError::UserEmpty))
            }
            _ => Ok(()),
        }
    }

    /// Puts a caller's command through the log.
    pub(crate) async fn propose_as(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Reply, Status> {
        if !self.reader.auth_enabled() {
            return self.propose_bytes(encode(command)).await;
        }
        let principal = caller.principal(&self.reader.auth());
        self.propose_bytes(encode_as(principal, command)).await
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is not text is a token too, a wrong one.
fn shown_token(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get(TOKEN).or_else(|| metadata.get(AUTHORIZATION))?;
    let text = value.to_str().unwrap_or("?");
    Some(text.strip_prefix("Bearer ").unwrap_or(text))
}

/// The users that a certificate may stand for, the first that exists is meant.
fn users_of(peer: &Peer, cluster: Option<&str>) -> Vec<String> {
    match &peer.id {
        // without a certificate of our own we know no cluster, and accepted none either
        Some(id) if Some(id.cluster()) != cluster => Vec::new(),
        Some(SpiffeId::Service { service, node, .. }) => {
            vec![format!("svc/{service}/{node}"), format!("svc/{service}")]
        }
        Some(SpiffeId::Node { node, .. }) => vec![format!("node/{node}")],
        Some(SpiffeId::Operator { name, .. }) => {
            let mut names = vec![format!("operator/{name}")];
            names.extend(peer.common_name.as_deref().map(str::to_owned));
            names
        }
        None => peer.common_name.as_deref().map(str::to_owned).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_stands_for_users_by_its_id() {
        let peer = |id: Option<&str>, common: Option<&str>| Peer {
            id: id.map(|id| id.parse().unwrap()),
            common_name: common.map(Arc::from),
            ..Peer::unknown(([127, 0, 0, 1], 1).into())
        };
        let table: [(_, _, &[&str]); 6] = [
            (Some("spiffe://c/svc/iam/n1"), Some("iam@n1"), &["svc/iam/n1", "svc/iam"]),
            (Some("spiffe://c/node/root"), Some("root"), &["node/root"]),
            (Some("spiffe://c/operator/ann"), Some("ann"), &["operator/ann", "ann"]),
            (Some("spiffe://other/operator/ann"), Some("ann"), &[]),
            (None, Some("ann"), &["ann"]),
            (None, None, &[]),
        ];
        for (id, common, expected) in table {
            assert_eq!(users_of(&peer(id, common), Some("c")), expected, "{id:?}");
        }
    }

    #[test]
    fn tokens_come_in_two_places() {
        let mut metadata = MetadataMap::new();
        assert_eq!(shown_token(&metadata), None);
        metadata.insert(AUTHORIZATION, "Bearer abc".parse().unwrap());
        assert_eq!(shown_token(&metadata), Some("abc"));
        metadata.insert(TOKEN, "def".parse().unwrap());
        assert_eq!(shown_token(&metadata), Some("def"));
    }
}
