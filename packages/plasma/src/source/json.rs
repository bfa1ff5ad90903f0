//! Where the parts of a JSON text stand. The text has been parsed before: this only counts lines.

use serde_json::Value;

use super::{NotData, Places};

pub(super) fn read(text: &str) -> Result<(Value, Places), NotData> {
    let value: Value = serde_json::from_str(text).map_err(|error| NotData {
        line: error.line().max(1),
        why: format!("no JSON: {error}"),
        expression: false,
    })?;
    let mut scan = Scan { bytes: text.as_bytes(), at: 0, line: 1, places: Places::new() };
    scan.value("");
    Ok((value, scan.places))
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    places: Places,
}

impl Scan<'_> {
    /// As deep as the parser went, which has a limit.
    fn value(&mut self, path: &str) {
        self.blanks();
        self.places.entry(path.to_owned()).or_insert(self.line);
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                while self.more(b'}') {
                    let line = self.line;
                    let key = self.string();
                    let inner = if path.is_empty() { key } else { format!("{path}.{key}") };
                    // the key's line, not the value's
                    self.places.insert(inner.clone(), line);
                    self.more(b':');
                    self.value(&inner);
                }
            }
            Some(b'[') => {
                self.at += 1;
                let mut index = 0_usize;
                while self.more(b']') {
                    self.value(&format!("{path}[{index}]"));
                    index += 1;
                }
            }
            Some(b'"') => drop(self.string()),
            _ => {
                let scalar = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
                while self.peek().is_some_and(scalar) {
                    self.at += 1;
                }
            }
        }
    }

    /// Past blanks, commas and colons; false at the end of what `close` closes.
    fn more(&mut self, close: u8) -> bool {
        self.blanks();
        while matches!(self.peek(), Some(b',' | b':')) {
            self.at += 1;
            self.blanks();
        }
        match self.peek() {
            Some(b) if b == close => {
                self.at += 1;
                false
            }
            other => other.is_some(),
        }
    }

    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
        let end = self.at.min(self.bytes.len());
        serde_json::from_slice(&self.bytes[start..end]).unwrap_or_default()
    }

    fn blanks(&mut self) {
        while let Some(byte) = self.peek().filter(u8::is_ascii_whitespace) {
            self.line += usize::from(byte == b'\n');
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_line() {
        let text =
            "{\n \"a\": {\"b\\\"\\n\": 1,\n  \"c\":\n   [true,\n -1.5e+3, {}]\n },\n \"d\": null}";
        let (_, places) = read(text).unwrap();
        let found: Vec<(&str, usize)> =
            places.iter().map(|(path, line)| (path.as_str(), *line)).collect();
        let expected = [
            ("", 1),
            ("a", 2),
            ("a.b\"\n", 2),
            ("a.c", 3),
            ("a.c[0]", 4),
            ("a.c[1]", 5),
            ("a.c[2]", 5),
            ("d", 7),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn no_json_has_a_line_too() {
        assert_eq!(read("{\n\"a\": }").unwrap_err().line, 2);
        assert_eq!(read("").unwrap_err().line, 1);
    }
}
