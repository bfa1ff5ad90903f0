//! Tokens: signed by a key in the replicated state, so that one from any member is good on all.
//!
//! `cf1.` and, in base64url, expiry ‖ auth revision ‖ user ‖ HMAC-SHA256 of what precedes it. Pure;
//! time is handed in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Buf;
use ring::hmac;

const KIND: &str = "cf1.";
const HEAD: usize = 16;
const MAC: usize = 32;
/// Longer ones are not looked at.
const LONGEST: usize = 2048;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) user: String,
    /// Of auth, when the password was compared.
    pub(super) revision: u64,
    /// Seconds since 1970.
    pub(super) expires: u64,
}

fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

pub(super) fn sign(secret: &[u8], claims: &Claims) -> String {
    let mut text = Vec::with_capacity(HEAD + claims.user.len() + MAC);
    text.extend_from_slice(&claims.expires.to_be_bytes());
    text.extend_from_slice(&claims.revision.to_be_bytes());
    text.extend_from_slice(claims.user.as_bytes());
    let mac = hmac::sign(&key(secret), &text);
    text.extend_from_slice(mac.as_ref());
    format!("{KIND}{}", URL_SAFE_NO_PAD.encode(text))
}

/// What is in a token, if it is one of this key.
pub(super) fn verify(secret: &[u8], token: &str) -> Option<Claims> {
    if secret.is_empty() || token.len() > LONGEST {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(KIND)?).ok()?;
    let (mut text, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
    hmac::verify(&key(secret), text, mac).ok()?;
    if text.len() < HEAD {
        return None;
    }
    let (expires, revision) = (text.get_u64(), text.get_u64());
    Some(Claims { user: String::from_utf8(text.to_vec()).ok()?, revision, expires })
}

/// Whether it looks like a token of ours, by whatever key.
pub(super) fn is_ours(token: &str) -> bool {
    token.starts_with(KIND) && token.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_key_signed_is_believed() {
        let claims = Claims { user: "alice".into(), revision: 7, expires: 1 << 40 };
        let token = sign(b"secret", &claims);
        assert!(is_ours(&token) && token.is_ascii());
        assert_eq!(verify(b"secret", &token), Some(claims));
        assert_eq!(verify(b"other", &token), None);
        assert_eq!(verify(b"", &token), None);
        for at in 0..token.len() {
            let mut bent = token.clone().into_bytes();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(verify(b"secret", &String::from_utf8(bent).unwrap()), None, "{at}");
        }
        for cut in 0..token.len() {
            assert_eq!(verify(b"secret", &token[..cut]), None, "{cut}");
        }
        let long = format!("{KIND}{}", "A".repeat(LONGEST));
        assert!(!is_ours(&long) && verify(b"secret", &long).is_none());
    }
}
