//! A code, and the bounded table for codes that arrive from another process.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use parking_lot::Mutex;

/// A stable error code such as `CF-1003`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub &'static str);

impl Code {
    /// Stands for a code of another process that does not look like one of ours.
    pub const FOREIGN: Code = Code("RPC-0000");

    /// The code with this text, if it has the form of a code.
    ///
    /// Texts from outside are kept for the life of the process, so only well-formed ones are kept,
    /// and only a bounded number of them: a peer cannot make this process grow.
    pub fn parse(text: &str) -> Option<Code> {
        if !well_formed(text) {
            return None;
        }
        let mut known = KNOWN.lock();
        if let Some(kept) = known.get(text) {
            return Some(Code(kept));
        }
        if known.len() >= KNOWN_MAX {
            return Some(Code::FOREIGN);
        }
        let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
        known.insert(kept);
        Some(Code(kept))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const KNOWN_MAX: usize = 4096;
static KNOWN: LazyLock<Mutex<BTreeSet<&'static str>>> = LazyLock::new(Mutex::default);

fn well_formed(text: &str) -> bool {
    let Some((letters, digits)) = text.split_once('-') else { return false };
    (2..=4).contains(&letters.len())
        && letters.bytes().all(|b| b.is_ascii_uppercase())
        && (1..=5).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_texts_become_codes() {
        let table = [
            ("CF-1003", true),
            ("SET-1", true),
            ("RPC-20001", true),
            ("", false),
            ("CF1003", false),
            ("cf-1003", false),
            ("CF-", false),
            ("TOOLONG-1", false),
            ("CF-1234567", false),
            ("CF-10x3", false),
        ];
        for (text, good) in table {
            assert_eq!(Code::parse(text).is_some(), good, "{text:?}");
        }
    }

    #[test]
    fn the_same_text_is_kept_once() {
        let (a, b) = (Code::parse("ZZ-77").unwrap(), Code::parse("ZZ-77").unwrap());
        assert!(std::ptr::eq(a.0, b.0));
    }
}
