//! The header `Range`, as far as a loader needs it: one range of bytes.

/// Which part of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: no range, one that is not understood, or several.
    Whole,
    /// From the first byte to the last, both included.
    Bytes(u64, u64),
    /// A range outside the file.
    Outside,
}

/// Reads the header for a file of `length` bytes.
pub(crate) fn parse(header: Option<&str>, length: u64) -> Part {
    let Some(range) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // a number that is too large is still a number
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let part = match (first.trim(), last.trim()) {
        ("", last) => number(last).map(|count| (length.saturating_sub(count), u64::MAX, count > 0)),
        (first, "") => number(first).map(|first| (first, u64::MAX, true)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some((first, last, true)),
            _ => None,
        },
    };
    match part {
        None => Part::Whole,
        Some((first, last, true)) if first < length => Part::Bytes(first, last.min(length - 1)),
        Some(_) => Part::Outside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_nonsense_is_none() {
        for (header, part) in [
            ("bytes=0-0", Part::Bytes(0, 0)),
            ("bytes=0-", Part::Bytes(0, 99)),
            ("bytes=10-19", Part::Bytes(10, 19)),
            ("bytes=90-200", Part::Bytes(90, 99)),
            ("bytes=-5", Part::Bytes(95, 99)),
            ("bytes=-500", Part::Bytes(0, 99)),
            ("bytes=99-", Part::Bytes(99, 99)),
            ("bytes=100-", Part::Outside),
            ("bytes=100-200", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=99999999999999999999999-", Part::Outside),
            ("bytes=0-99999999999999999999999", Part::Bytes(0, 99)),
            ("bytes=5-4", Part::Whole),
            ("bytes=1-2,4-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes", Part::Whole),
        ] {
            assert_eq!(parse(Some(header), 100), part, "{header}");
        }
        assert_eq!(parse(None, 100), Part::Whole);
        assert_eq!(parse(Some("bytes=0-"), 0), Part::Outside);
    }
}
