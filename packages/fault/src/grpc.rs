//! A fault as a gRPC status: the message is `what`; code and hint travel as metadata.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{Code, Fault, Kind};

const CODE: &str = "plasma-code";
const HINT: &str = "plasma-hint";
/// A longer hint or message is cut: headers of a response are bounded everywhere.
const TEXT_MAX: usize = 2048;

impl From<Fault> for tonic::Status {
    fn from(fault: Fault) -> Self {
        let mut metadata = MetadataMap::new();
        metadata.insert(CODE, MetadataValue::from_static(fault.code.0));
        if let Some(hint) = encode(&fault.hint) {
            metadata.insert(HINT, hint);
        }
        let what = cut(&fault.what).to_owned();
        tonic::Status::with_metadata(fault.kind.grpc(), what, metadata)
    }
}

impl Fault {
    /// The fault that a status carries, if a process of ours sent it.
    pub fn from_status(status: &tonic::Status) -> Option<Fault> {
        let kind = kind_of(status.code())?;
        let code = Code::parse(status.metadata().get(CODE)?.to_str().ok()?)?;
        let hint = status.metadata().get(HINT).map(decode).unwrap_or_default();
        Some(Fault { code, kind, what: cut(status.message()).to_owned(), hint })
    }
}

fn kind_of(code: tonic::Code) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.grpc() == code)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

/// Metadata is ASCII: everything else, and the escape itself, becomes `%XX`.
fn encode(hint: &str) -> Option<MetadataValue<Ascii>> {
    if hint.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(hint.len());
    for byte in cut(hint).bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out.parse().ok()
}

fn decode(value: &MetadataValue<Ascii>) -> String {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_whole_fault() {
        for kind in Kind::ALL {
            let fault = Fault::new(Code("CF-1003"), kind, "größe 7", "100% löschen\nund neu");
            let status = tonic::Status::from(fault.clone());
            assert_eq!(status.code(), kind.grpc());
            assert_eq!(status.message(), "größe 7");
            assert_eq!(Fault::from_status(&status), Some(fault));
        }
    }

    #[test]
    fn a_foreign_status_is_no_fault() {
        assert_eq!(Fault::from_status(&tonic::Status::internal("boom")), None);
        let mut odd = tonic::Status::internal("boom");
        odd.metadata_mut().insert(CODE, MetadataValue::from_static("not a code"));
        assert_eq!(Fault::from_status(&odd), None);
    }

    #[test]
    fn texts_are_bounded_and_broken_escapes_are_harmless() {
        let long = Fault::new(Code("CF-1"), Kind::Invalid, "ü".repeat(5000), "%".repeat(5000));
        let status = tonic::Status::from(long);
        let back = Fault::from_status(&status).unwrap();
        assert_eq!((back.what.len(), back.hint.len()), (TEXT_MAX, TEXT_MAX));
        assert_eq!(decode(&MetadataValue::from_static("a%4")), "a%4");
        assert_eq!(decode(&MetadataValue::from_static("%zz%41")), "%zzA");
    }
}
