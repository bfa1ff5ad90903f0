//! A fault as JSON: `{"code": …, "kind": …, "what": …, "hint": …}`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Code, Fault, Kind};

const NAMES: [(Kind, &str); 12] = [
    (Kind::Invalid, "invalid"),
    (Kind::NotFound, "not_found"),
    (Kind::Exists, "exists"),
    (Kind::Precondition, "precondition"),
    (Kind::OutOfRange, "out_of_range"),
    (Kind::Unauthenticated, "unauthenticated"),
    (Kind::Denied, "denied"),
    (Kind::Exhausted, "exhausted"),
    (Kind::Unavailable, "unavailable"),
    (Kind::Deadline, "deadline"),
    (Kind::Corrupt, "corrupt"),
    (Kind::Internal, "internal"),
];

impl Kind {
    /// The name of this kind in JSON.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("internal", |(_, name)| name)
    }
}

#[derive(Serialize)]
struct Out<'a> {
    code: &'a str,
    kind: &'a str,
    what: &'a str,
    hint: &'a str,
}

#[derive(Deserialize)]
struct In {
    code: String,
    #[serde(default)]
    kind: String,
    what: String,
    #[serde(default)]
    hint: String,
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Out { code: self.code.0, kind: self.kind.name(), what: &self.what, hint: &self.hint }
            .serialize(serializer)
    }
}

/// An unknown kind reads as internal and a malformed code as [`Code::FOREIGN`]: a newer peer's
/// error must stay readable.
impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let In { code, kind, what, hint } = In::deserialize(deserializer)?;
        let kind = NAMES.iter().find(|(_, name)| *name == kind).map_or(Kind::Internal, |(k, _)| *k);
        Ok(Fault { code: Code::parse(&code).unwrap_or(Code::FOREIGN), kind, what, hint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_carries_the_whole_fault() {
        for kind in Kind::ALL {
            let fault = Fault::new(Code("BS-1"), kind, "a \"b\"", "c");
            let text = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault);
        }
    }

    #[test]
    fn a_newer_peers_fault_stays_readable() {
        let fault: Fault =
            serde_json::from_str(r#"{"code":"???","kind":"tired","what":"w","more":1}"#).unwrap();
        assert_eq!(fault, Fault::new(Code::FOREIGN, Kind::Internal, "w", ""));
    }
}
