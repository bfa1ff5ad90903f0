//! Join tokens: what a new node proves itself with, once.
//!
//! A token is `<id>.<secret>`; only the SHA-256 of the secret is kept. It is bound to a node's name
//! at minting, and to a public key when it is spent. The same node with the same key may spend it
//! again while it lives: a crash between spending and answering must not be a dead end.
//!
//! Pure state: whoever keeps a [`TokenBook`] writes it down before acting on what it says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fault::{Fault, Kind};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::key::{hex, sha256_hex};
use crate::{codes, is_label};

/// More live tokens than this are a mistake; dead ones make room first.
const TOKENS_MAX: usize = 10_000;
/// Dead tokens are remembered this long, so that their use can be explained.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
const SECRET_BYTES: usize = 32;

/// All join tokens of a cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBook {
    tokens: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    secret_sha256: String,
    expires_unix: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent_by: Option<String>,
    #[serde(default)]
    revoked: bool,
}

/// A new token. The secret exists here only.
#[derive(Clone)]
pub struct Minted {
    /// Its id, which is not secret.
    pub id: String,
    /// `<id>.<secret>`, to be given to the node and to nobody else.
    pub token: String,
    /// When it ends.
    pub expires: SystemTime,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Minted({})", self.id)
    }
}

/// What spending a token meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spending {
    /// The token's id.
    pub id: String,
    /// The same node with the same key had spent it before.
    pub again: bool,
}

/// A token as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// The node that may spend it.
    pub node: String,
    /// When it ends, in seconds since 1970.
    pub expires_unix: u64,
    /// What became of it.
    pub state: TokenState,
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// It can be spent.
    Live,
    /// It was spent.
    Spent,
    /// It ended unspent.
    Expired,
    /// An operator took it back.
    Revoked,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No such token, or a wrong secret: not told apart.
    #[error("join token is unknown")]
    Unknown,
    /// It ended.
    #[error("join token {id} for node {node} expired")]
    Expired {
        /// The token.
        id: String,
        /// Its node.
        node: String,
    },
    /// Another key has spent it.
    #[error("join token {id} for node {node} was used by another key")]
    Reused {
        /// The token.
        id: String,
        /// Its node.
        node: String,
    },
    /// It is for another node.
    #[error("join token {id} is not for node {node}")]
    WrongNode {
        /// The token.
        id: String,
        /// The node that tried.
        node: String,
    },
    /// An operator took it back.
    #[error("join token {id} was revoked")]
    Revoked {
        /// The token.
        id: String,
    },
    /// The node's name is malformed.
    #[error("{0:?} is not a valid name of a node")]
    BadNode(String),
    /// Too many are alive.
    #[error("{0} join tokens are alive")]
    TooMany(usize),
    /// No randomness.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        use TokenError as E;
        const MINT: &str = "mint a new one: bootserver token new <node>";
        let (code, kind, hint) = match &error {
            E::Unknown => (codes::TOKEN_UNKNOWN, Kind::Unauthenticated, MINT),
            E::Expired { .. } => (codes::TOKEN_EXPIRED, Kind::Unauthenticated, MINT),
            E::Reused { .. } => (codes::TOKEN_REUSED, Kind::Denied, MINT),
            E::WrongNode { .. } => {
                (codes::TOKEN_WRONG_NODE, Kind::Denied, "use the token minted for this node")
            }
            E::Revoked { .. } => (codes::TOKEN_REVOKED, Kind::Denied, MINT),
            E::BadNode(_) => (codes::NAME, Kind::Invalid, "use the node's name in the inventory"),
            E::TooMany(_) => (codes::TOKEN_TOO_MANY, Kind::Exhausted, "revoke some"),
            E::NoRandomness => (codes::CRYPTO, Kind::Internal, "try again"),
        };
        Fault::new(code, kind, error.to_string(), hint)
    }
}

impl TokenBook {
    /// Without tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a token for a node; it ends after `ttl`.
    pub fn mint(
        &mut self,
        node: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Minted, TokenError> {
        if !is_label(node) {
            return Err(TokenError::BadNode(crate::spiffe::shown(node)));
        }
        self.forget_old(now);
        if self.tokens.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany(self.tokens.len()));
        }
        let mut random = [0u8; 8 + SECRET_BYTES];
        SystemRandom::new().fill(&mut random).map_err(|_| TokenError::NoRandomness)?;
        let (id, secret) = random.split_at(8);
        let (id, secret) = (hex(id), URL_SAFE_NO_PAD.encode(secret));
        let expires_unix = unix(now).saturating_add(ttl.as_secs());
        let entry = Entry {
            node: node.to_owned(),
            secret_sha256: sha256_hex(secret.as_bytes()),
            expires_unix,
            spent_by: None,
            revoked: false,
        };
        self.tokens.insert(id.clone(), entry);
        let expires = UNIX_EPOCH + Duration::from_secs(expires_unix);
        Ok(Minted { token: format!("{id}.{secret}"), id, expires })
    }

    /// Spends a token for a node and its public key. What it says counts only once this book was
    /// written down.
    pub fn spend(
        &mut self,
        token: &str,
        node: &str,
        public_key_hash: &str,
        now: SystemTime,
    ) -> Result<Spending, TokenError> {
        let (id, secret) = token.trim().split_once('.').ok_or(TokenError::Unknown)?;
        let given = sha256_hex(secret.as_bytes());
        let entry = self.tokens.get_mut(id).ok_or(TokenError::Unknown)?;
        if !same(entry.secret_sha256.as_bytes(), given.as_bytes()) {
            return Err(TokenError::Unknown);
        }
        let id = id.to_owned();
        if entry.revoked {
            return Err(TokenError::Revoked { id });
        }
        if entry.node != node {
            return Err(TokenError::WrongNode { id, node: crate::spiffe::shown(node) });
        }
        if entry.expires_unix <= unix(now) {
            return Err(TokenError::Expired { id, node: entry.node.clone() });
        }
        match &entry.spent_by {
            None => {
                entry.spent_by = Some(public_key_hash.to_owned());
                Ok(Spending { id, again: false })
            }
            Some(key) if key == public_key_hash => Ok(Spending { id, again: true }),
            Some(_) => Err(TokenError::Reused { id, node: entry.node.clone() }),
        }
    }

    /// Takes a token back; doing it twice is the same.
    pub fn revoke(&mut self, id: &str) -> Result<(), TokenError> {
        self.tokens.get_mut(id).ok_or(TokenError::Unknown)?.revoked = true;
        Ok(())
    }

    /// Forgets a token, as if it had never been.
    pub fn forget(&mut self, id: &str) {
        self.tokens.remove(id);
    }

    /// All tokens that are remembered, by id.
    pub fn list(&self, now: SystemTime) -> Vec<TokenInfo> {
        let info = |(id, entry): (&String, &Entry)| TokenInfo {
            id: id.clone(),
            node: entry.node.clone(),
            expires_unix: entry.expires_unix,
            state: entry.state(now),
        };
        self.tokens.iter().map(info).collect()
    }

    /// Dead tokens are remembered for a while, for their reason to be told, and only while there is
    /// room for living ones.
    fn forget_old(&mut self, now: SystemTime) {
        let keep_from = unix(now).saturating_sub(REMEMBERED.as_secs());
        self.tokens.retain(|_, entry| entry.expires_unix > keep_from);
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.retain(|_, entry| entry.state(now) == TokenState::Live);
        }
    }
}

impl Entry {
    fn state(&self, now: SystemTime) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if self.spent_by.is_some() {
            TokenState::Spent
        } else if self.expires_unix <= unix(now) {
            TokenState::Expired
        } else {
            TokenState::Live
        }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Compares in a time that does not depend on where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}
