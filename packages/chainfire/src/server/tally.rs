//! How often callers were refused in ways that an operator looks for.
//!
//! Counted where refusals are made, which services do in many places without a member at hand. So it
//! is the process's, as its memory is: members that are embedded in one process count together.
//! Watches that are cancelled are not counted: they are told so in a message of their stream.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    /// A namespace has all the keys that it may have.
    Keys,
    /// A namespace has all the bytes that it may have.
    Bytes,
    /// A namespace has had its requests for now.
    Requests,
    /// The user may not do this.
    Permission,
    /// The caller is nobody, and somebody is asked for.
    Nobody,
    /// The token is not believed.
    Token,
    /// Name and password do not fit.
    Login,
}

static COUNTS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];

impl Tally {
    /// One more.
    pub(crate) fn add(self) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn count(self) -> u64 {
        COUNTS[self as usize].load(Ordering::Relaxed)
    }
}
