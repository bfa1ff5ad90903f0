//! The part of Nix's language that is plain data: sets, lists, texts, numbers, comments. Whatever
//! has to be evaluated (functions, `let`, `inherit`, `${…}`) is left to Nix: see [`NotData`].

use serde_json::{Map, Number, Value};

use super::{NotData, Places};

/// Deeper than any inventory; keeps hostile files off the stack.
const MAX_DEPTH: usize = 64;

pub(super) fn read(text: &str) -> Result<(Value, Places), NotData> {
    let mut reader = Reader { text, at: 0, line: 1, places: Places::new(), depth: 0 };
    reader.blanks()?;
    let value = reader.value("")?;
    reader.blanks()?;
    match reader.peek() {
        None => Ok((value, reader.places)),
        Some(_) => Err(reader.expression()),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    places: Places,
    depth: usize,
}

type Read<T> = Result<T, NotData>;

impl Reader<'_> {
    fn value(&mut self, path: &str) -> Read<Value> {
        self.places.entry(path.to_owned()).or_insert(self.line);
        match self.peek() {
            Some('{') => self.deeper(|reader| reader.set(path)),
            Some('[') => self.deeper(|reader| reader.list(path)),
            Some('"') => self.string().map(Value::from),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number(),
            Some(_) => match self.word() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                "null" => Ok(Value::Null),
                _ => Err(self.expression()),
            },
            None => Err(self.wrong("the file ends where a value should stand")),
        }
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Read<Value>) -> Read<Value> {
        if self.depth == MAX_DEPTH {
            return Err(self.wrong("nested too deep"));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn set(&mut self, path: &str) -> Read<Value> {
        self.next();
        let mut map = Map::new();
        loop {
            self.blanks()?;
            match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(Value::Object(map));
                }
                None => return Err(self.wrong("a { is never closed")),
                Some(_) => {}
            }
            let keys = self.keys()?;
            let mut inner = path.to_owned();
            for key in &keys {
                inner = if inner.is_empty() { key.clone() } else { format!("{inner}.{key}") };
                self.places.entry(inner.clone()).or_insert(self.line);
            }
            self.sign('=', "=")?;
            self.blanks()?;
            let value = self.value(&inner)?;
            self.sign(';', "; after the value")?;
            if !put(&mut map, &keys, value) {
                return Err(self.wrong(&format!("{inner} is given twice")));
            }
        }
    }

    fn list(&mut self, path: &str) -> Read<Value> {
        self.next();
        let mut values = Vec::new();
        loop {
            self.blanks()?;
            match self.peek() {
                Some(']') => {
                    self.next();
                    return Ok(Value::Array(values));
                }
                None => return Err(self.wrong("a [ is never closed")),
                Some(_) => {
                    let value = self.value(&format!("{path}[{}]", values.len()))?;
                    values.push(value);
                }
            }
        }
    }

    /// `disk.match.serial`, `"a b"`
    fn keys(&mut self) -> Read<Vec<String>> {
        let mut keys = Vec::new();
        loop {
            let key = match self.peek() {
                Some('"') => self.string()?,
                _ => self.word().to_owned(),
            };
            if key.is_empty() || matches!(key.as_str(), "inherit" | "let" | "rec" | "with") {
                return Err(self.expression());
            }
            keys.push(key);
            self.blanks()?;
            if self.peek() != Some('.') || keys.len() == MAX_DEPTH {
                return Ok(keys);
            }
            self.next();
            self.blanks()?;
        }
    }

    fn string(&mut self) -> Read<String> {
        self.next();
        let mut out = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(out),
                Some('$') if self.peek() == Some('{') => return Err(self.expression()),
                Some('\\') => match self.next() {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some(c) => out.push(c),
                    None => return Err(self.wrong("a text is never closed")),
                },
                Some(c) => out.push(c),
                None => return Err(self.wrong("a text is never closed")),
            }
        }
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            self.next();
        }
        let text = &self.text[start..self.at];
        let number: Result<Number, _> = serde_json::from_str(text);
        number.map(Value::from).map_err(|_| self.wrong(&format!("{text} is no number")))
    }

    fn word(&mut self) -> &str {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || "_-'".contains(c)) {
            self.next();
        }
        &self.text[start..self.at]
    }

    fn sign(&mut self, sign: char, name: &str) -> Read<()> {
        // what is missing belongs to the line on which it should stand
        let line = self.line;
        self.blanks()?;
        match self.peek() {
            Some(c) if c == sign => {
                self.next();
                Ok(())
            }
            Some('(' | ',' | ':' | '+' | '/' | '<' | '@' | '?' | '!' | '|' | '&' | '$') => {
                Err(self.expression())
            }
            _ => Err(NotData { line, why: format!("{name} is missing"), expression: false }),
        }
    }

    fn blanks(&mut self) -> Read<()> {
        loop {
            match self.peek() {
                Some(c) if c.is_whitespace() => drop(self.next()),
                Some('#') => while self.next().is_some_and(|c| c != '\n') {},
                Some('/') if self.text[self.at..].starts_with("/*") => {
                    let rest = &self.text[self.at..];
                    let Some(end) = rest.find("*/") else {
                        return Err(self.wrong("a /* is never closed"));
                    };
                    self.line += rest[..end].matches('\n').count();
                    self.at += end + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn wrong(&self, why: &str) -> NotData {
        NotData { line: self.line, why: why.to_owned(), expression: false }
    }

    fn expression(&self) -> NotData {
        let why = "an expression stands here, which only Nix can evaluate".to_owned();
        NotData { line: self.line, why, expression: true }
    }
}

/// `a.b = 1; a.c = 2;` is one set `a`; false when something is given twice.
fn put(map: &mut Map<String, Value>, keys: &[String], value: Value) -> bool {
    let Some((first, rest)) = keys.split_first() else { return false };
    if rest.is_empty() {
        return match (map.get_mut(first), value) {
            (None, value) => map.insert(first.clone(), value).is_none(),
            (Some(Value::Object(there)), Value::Object(more)) => {
                more.into_iter().all(|(key, value)| put(there, &[key], value))
            }
            (Some(_), _) => false,
        };
    }
    let inner = map.entry(first).or_insert_with(|| Value::Object(Map::new()));
    inner.as_object_mut().is_some_and(|inner| put(inner, rest, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use inventory::Inventory;
    use serde_json::json;

    #[test]
    fn data_is_read_with_its_lines() {
        let text = "# a cluster\n{\n  a.b = \"x\\\"y\"; /* one\n two */ a.c = [ 1 \"two\" { } ];\n  \"d-e\" = { f = null; };\n  a = { g = true; };\n}\n";
        let (value, places) = read(text).unwrap();
        let expected =
            json!({"a": {"b": "x\"y", "c": [1, "two", {}], "g": true}, "d-e": {"f": null}});
        assert_eq!(value, expected);
        let line = |path: &str| places[path];
        assert_eq!(
            [line("a"), line("a.b"), line("a.c[1]"), line("d-e.f"), line("a.g")],
            [3, 3, 4, 5, 6]
        );
    }

    #[test]
    fn what_must_be_evaluated_is_left_to_nix() {
        for text in [
            "{ lib, ... }: { }",
            "let x = 1; in { a = x; }",
            "{ a = \"${b}\"; }",
            "{ a = f 1; }",
            "{ inherit a; }",
            "{ a = [ (f 1) ]; }",
            "{ a = { } // b; }",
            "{ a = ''text''; }",
        ] {
            assert!(read(text).unwrap_err().expression, "{text}");
        }
    }

    #[test]
    fn a_slip_has_its_line() {
        let table = [
            ("{\n a = 1\n b = 2;\n}", 2, "; after the value is missing"),
            ("{\n a = \"x;\n}", 3, "a text is never closed"),
            ("{\n a = 1;\n a = 2;\n}", 3, "a is given twice"),
            ("{\n a = [ 1\n", 3, "a [ is never closed"),
            ("{\n a 1;\n}", 2, "= is missing"),
        ];
        for (text, line, why) in table {
            let not = read(text).unwrap_err();
            assert_eq!((not.line, not.why.as_str()), (line, why), "{text}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn the_checkouts_own_two_files_say_the_same() {
        let (value, _) = read(include_str!("../../../../nodes/cluster.nix")).unwrap();
        let from_nix = Inventory::from_value(&value).unwrap();
        assert_eq!(from_nix, Inventory::parse(Inventory::built_in()).unwrap());
    }
}
