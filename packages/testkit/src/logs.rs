//! Tests fail on errors in the logs that nobody expected.
//!
//! ERROR means that someone must act. A test that provokes such a thing says so beforehand.

use std::path::Path;

/// Lines of a log that are errors, or panics, and hold none of the expected texts.
pub fn unexpected(log: &Path, expected: &[String]) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .filter(|line| is_error(line))
        .filter(|line| !expected.iter().any(|known| line.contains(known.as_str())))
        .map(str::to_owned)
        .collect()
}

fn is_error(line: &str) -> bool {
    let json = line.contains("\"level\":\"ERROR\"");
    // The level stands near the beginning of a line for people; the message may hold the word too.
    let head: String = line.chars().take(64).collect();
    json || head.contains(" ERROR ") || line.contains("panicked at")
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::is_error;

    #[test]
    fn errors_are_told_from_words() {
        assert!(is_error(r#"{"timestamp":"x","level":"ERROR","fields":{"message":"disk full"}}"#));
        assert!(is_error("2026-11-21T10:00:00Z ERROR chainfire: disk full"));
        assert!(is_error("thread 'main' panicked at src/x.rs:1:2:"));
        assert!(!is_error("2026-11-21T10:00:00Z  WARN chainfire: peer answered with ERROR"));
    }
}
