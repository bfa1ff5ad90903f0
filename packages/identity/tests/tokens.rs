//! Join tokens: single use, bound to a node and a key, explained when refused.

use std::time::{Duration, SystemTime};

use fault::Fault;
use identity::{TokenBook, TokenError, TokenState, codes};
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_is_spent_once_but_its_key_may_ask_again() {
    let now = SystemTime::now();
    let mut book = TokenBook::new();
    let minted = book.mint("node01", HOUR, now).unwrap();
    let first = book.spend(&minted.token, "node01", "key-a", now).unwrap();
    assert_eq!((first.id.as_str(), first.again), (minted.id.as_str(), false));
    assert!(book.spend(&minted.token, "node01", "key-a", now).unwrap().again);
    assert!(matches!(
        book.spend(&minted.token, "node01", "key-b", now),
        Err(TokenError::Reused { .. })
    ));
    // The replay ends with the token.
    assert!(matches!(
        book.spend(&minted.token, "node01", "key-a", now + HOUR),
        Err(TokenError::Expired { .. })
    ));
}

#[test]
fn every_refusal_has_its_code() {
    let now = SystemTime::now();
    let mut book = TokenBook::new();
    let minted = book.mint("node01", HOUR, now).unwrap();
    let taken = book.mint("node01", HOUR, now).unwrap();
    book.revoke(&taken.id).unwrap();
    let wrong_secret = format!("{}.{}", minted.id, "A".repeat(43));
    let long = "x".repeat(100_000);
    let table = [
        ("", "node01", now, codes::TOKEN_UNKNOWN),
        ("nonsense", "node01", now, codes::TOKEN_UNKNOWN),
        ("a.b", "node01", now, codes::TOKEN_UNKNOWN),
        (long.as_str(), "node01", now, codes::TOKEN_UNKNOWN),
        (wrong_secret.as_str(), "node01", now, codes::TOKEN_UNKNOWN),
        (minted.id.as_str(), "node01", now, codes::TOKEN_UNKNOWN),
        (minted.token.as_str(), "node02", now, codes::TOKEN_WRONG_NODE),
        (minted.token.as_str(), "node01", now + HOUR, codes::TOKEN_EXPIRED),
        (taken.token.as_str(), "node01", now, codes::TOKEN_REVOKED),
    ];
    for (token, node, at, code) in table {
        let fault = Fault::from(book.spend(token, node, "key", at).unwrap_err());
        assert_eq!(fault.code, code, "{fault}");
        assert!(!fault.hint.is_empty());
        let secret = minted.token.split_once('.').unwrap().1;
        assert!(!fault.to_string().contains(secret), "no secret in {fault}");
    }
    // A failed try spends nothing.
    assert!(!book.spend(&minted.token, "node01", "key", now).unwrap().again);
    assert!(book.revoke("no-such").is_err());
}

#[test]
fn a_book_is_written_without_secrets_and_read_back_whole() {
    let now = SystemTime::now();
    let mut book = TokenBook::new();
    let minted = book.mint("node01", HOUR, now).unwrap();
    let spent = book.mint("node02", HOUR, now).unwrap();
    book.spend(&spent.token, "node02", "key", now).unwrap();
    let text = serde_json::to_string(&book).unwrap();
    for token in [&minted.token, &spent.token] {
        assert!(!text.contains(token.split_once('.').unwrap().1), "no secret in {text}");
    }
    assert!(!format!("{minted:?}").contains(minted.token.split_once('.').unwrap().1));
    let mut book: TokenBook = serde_json::from_str(&text).unwrap();
    assert!(book.spend(&spent.token, "node02", "key", now).unwrap().again);
    let states: Vec<_> = book.list(now).into_iter().map(|info| (info.node, info.state)).collect();
    assert!(states.contains(&("node01".to_owned(), TokenState::Live)));
    assert!(states.contains(&("node02".to_owned(), TokenState::Spent)));
    let later: Vec<_> = book.list(now + HOUR).into_iter().map(|info| info.state).collect();
    assert!(later.contains(&TokenState::Expired) && later.contains(&TokenState::Spent));
}

#[test]
fn dead_tokens_are_forgotten_after_a_week() {
    let now = SystemTime::now();
    let mut book = TokenBook::new();
    book.mint("node01", HOUR, now).unwrap();
    book.mint("node02", HOUR, now + 48 * HOUR).unwrap();
    assert_eq!(book.list(now).len(), 2, "a dead one explains itself");
    book.mint("node03", HOUR, now + 9 * 24 * HOUR).unwrap();
    assert_eq!(book.list(now).len(), 2, "the first is gone");
    assert!(matches!(book.mint("Not a node", HOUR, now), Err(TokenError::BadNode(_))));
}

proptest! {
    #[test]
    fn nothing_but_the_token_is_accepted(token in ".{0,80}", node in "[a-z0-9]{1,5}") {
        let now = SystemTime::now();
        let mut book = TokenBook::new();
        let minted = book.mint("node01", HOUR, now).unwrap();
        prop_assert!(book.spend(&token, &node, "key", now).is_err());
        let guess = format!("{}.{token}", minted.id);
        prop_assert!(book.spend(&guess, "node01", "key", now).is_err());
    }
}
