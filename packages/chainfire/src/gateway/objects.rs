//! A body as the JSON objects in it, one after the other, as they come.

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tonic::Status;

use super::refusal::{self, malformed};

/// Cuts a body into its top-level objects. Holds no more than one object and the piece of the
/// body after it.
pub(super) struct Objects {
    body: BodyDataStream,
    buffer: BytesMut,
    scan: Scan,
    /// Largest object, in bytes.
    max: usize,
}

impl Objects {
    pub(super) fn new(body: Body, max: usize) -> Objects {
        let body = body.into_data_stream();
        Objects { body, buffer: BytesMut::new(), scan: Scan::default(), max }
    }

    /// The next object; none at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(end) = self.scan.end_of_object(&self.buffer)? {
                self.scan = Scan::default();
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            if self.buffer.len() > self.max {
                return Err(refusal::too_large());
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(error)) => return Err(malformed(format!("body lost: {error}"))),
                None if self.scan.depth == 0 => return Ok(None),
                None => return Err(malformed("unexpected end of the body")),
            }
        }
    }
}

/// How far into an object the buffer was read: each byte is looked at once.
#[derive(Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Where the first object ends, if it does. Only braces and strings are understood: the parser
    /// finds whatever else is wrong.
    fn end_of_object(&mut self, buffer: &[u8]) -> Result<Option<usize>, Status> {
        while let Some(byte) = buffer.get(self.at) {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' => self.depth += 1,
                b'}' if self.depth == 1 => return Ok(Some(self.at)),
                b'}' if self.depth > 1 => self.depth -= 1,
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.depth == 0 => {
                    return Err(malformed("the body is not a JSON object"));
                }
                b'"' => self.in_string = true,
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(pieces: &[&str], max: usize) -> Result<Vec<String>, Status> {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece.as_bytes()))).collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        let mut objects = Objects::new(body, max);
        let mut found = Vec::new();
        while let Some(object) = objects.next().await? {
            found.push(String::from_utf8_lossy(&object).trim().to_owned());
        }
        Ok(found)
    }

    #[tokio::test]
    async fn objects_are_cut_wherever_the_pieces_end() {
        let text = r#" {"a":{"b":"}{\"\\"}} {}
            {"c":[1,{"d":2}]} "#;
        let whole = [r#"{"a":{"b":"}{\"\\"}}"#, "{}", r#"{"c":[1,{"d":2}]}"#];
        assert_eq!(cut(&[text], 100).await.unwrap(), whole);
        for at in 0..text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(cut(&[left, right], 100).await.unwrap(), whole, "cut at {at}");
        }
        assert!(cut(&[], 100).await.unwrap().is_empty());
        assert!(cut(&["  \n"], 100).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_object_is_refused() {
        for text in ["[1]", "7", "\"a\"", "}", "{", "{\"a", "{} x"] {
            let error = cut(&[text], 100).await.unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{text}");
        }
    }

    #[tokio::test]
    async fn an_object_without_end_is_not_kept() {
        let long = "x".repeat(50);
        let pieces = vec![long.as_str(); 100];
        let mut all = vec!["{\"a\":\""];
        all.extend(pieces);
        let error = cut(&all, 200).await.unwrap_err();
        assert_eq!(error.message(), "etcdserver: request is too large");
    }
}
