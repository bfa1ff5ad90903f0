//! One call: JSON in, a gRPC request to the services of this process, JSON out.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost_reflect::MessageDescriptor;
use rpc::Peer;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::objects::Objects;
use super::transcode::{Desks, FRAME, empty_frame, to_frame, write_json};
use super::{Call, Gateway, refusal};

/// The largest answer that is written as JSON. It is in memory as a whole.
const ANSWER_MAX: usize = 128 << 20;
/// HTTP headers of this prefix become metadata.
const METADATA: &str = "grpc-metadata-";

impl Gateway {
    pub(super) async fn make(&self, call: Call, request: Request<Body>) -> Response {
        let made = if call.streams_in || call.streams_out {
            self.stream(&call, request).await
        } else {
            self.unary(&call, request).await
        };
        match made {
            Ok(response) => response,
            Err(status) if call.streams_out => refusal::answer_stream(&status),
            Err(status) => refusal::answer(&status),
        }
    }

    async fn unary(&self, call: &Call, request: Request<Body>) -> Result<Response, Status> {
        let (parts, body) = request.into_parts();
        let frame = self.only(call, body).await?;
        let mut answers = self.send(call, &parts, frame.into()).await?;
        let message = answers.next().await?;
        // the status comes after the message
        while answers.next().await?.is_some() {}
        let message = message.ok_or_else(|| refusal::unreadable("there is none"))?;
        let (of, bytes) = (call.output.clone(), message.len());
        let written = move || {
            let mut json = Vec::with_capacity(2 * bytes);
            write_json(&of, message, &mut json).map(|()| json)
        };
        let json = self.desks.run(bytes, written).await?;
        Ok(refusal::json(StatusCode::OK, Body::from(json)))
    }

    async fn stream(&self, call: &Call, request: Request<Body>) -> Result<Response, Status> {
        let (parts, body) = request.into_parts();
        let failure = Failure::default();
        let frames = if call.streams_in {
            let mut messages = Messages {
                of: call.input.clone(),
                desks: self.desks.clone(),
                objects: Objects::new(body, self.max),
                first: None,
                stays: call.stays,
                failure: failure.clone(),
            };
            // a first message that is wrong gets an answer of its own
            messages.first = messages.read().await?;
            let rest = futures::stream::unfold(messages, |mut messages| async move {
                messages.next().await.map(|frame| (frame, messages))
            });
            Body::from_stream(rest)
        } else {
            self.only(call, body).await?.into()
        };
        let mut answers = self.send(call, &parts, frames).await?;
        // gRPC's first word decides the HTTP status
        let first = answers.next().await?;
        let (of, desks) = (call.output.clone(), self.desks.clone());
        let lines = Lines { of, desks, answers, first, failure, ended: false };
        let lines = futures::stream::unfold(lines, |mut lines| async move {
            lines.next().await.map(|line| (Ok::<_, io::Error>(line), lines))
        });
        Ok(refusal::json(StatusCode::OK, Body::from_stream(lines)))
    }

    /// The one message of a body. What follows it is not read.
    async fn only(&self, call: &Call, body: Body) -> Result<Bytes, Status> {
        let mut objects = Objects::new(body, self.max);
        let object = tokio::time::timeout(self.patience, objects.next()).await;
        match object.map_err(|_| refusal::too_slow())?? {
            Some(json) => framed(&self.desks, &call.input, json).await,
            None => Ok(empty_frame(&call.input)),
        }
    }

    async fn send(&self, call: &Call, parts: &Parts, body: Body) -> Result<Answers, Status> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = call.path.clone().into();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = metadata(&parts.headers);
        // who calls, as the handshake verified it
        if let Some(peer) = parts.extensions.get::<Peer>() {
            request.extensions_mut().insert(peer.clone());
        }
        let response = match self.services.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(Answers { body: response.into_body(), buffer: BytesMut::new() }),
        }
    }
}

async fn framed(desks: &Desks, of: &MessageDescriptor, json: Bytes) -> Result<Bytes, Status> {
    let (of, bytes) = (of.clone(), json.len());
    desks.run(bytes, move || to_frame(&of, &json)).await
}

/// What of the HTTP headers the services see.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let own = name.as_str().strip_prefix(METADATA);
        // gRPC's own headers are ours to set
        let own = own.filter(|own| !own.starts_with("grpc-"));
        match own.map(HeaderName::try_from) {
            Some(Ok(own)) if own != header::CONTENT_TYPE && own != header::TE => {
                metadata.append(own, value.clone());
            }
            _ if name == header::AUTHORIZATION => {
                metadata.append(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    metadata
}

/// Why the client's side of a stream ended before its time.
type Failure = Arc<Mutex<Option<Status>>>;

/// The messages of a client's stream, as frames.
struct Messages {
    of: MessageDescriptor,
    desks: Desks,
    objects: Objects,
    first: Option<Bytes>,
    stays: bool,
    failure: Failure,
}

impl Messages {
    async fn read(&mut self) -> Result<Option<Bytes>, Status> {
        match self.objects.next().await? {
            Some(json) => framed(&self.desks, &self.of, json).await.map(Some),
            None => Ok(None),
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        match self.read().await {
            Ok(Some(frame)) => Some(Ok(frame)),
            Ok(None) if self.stays => std::future::pending().await,
            Ok(None) => None,
            Err(status) => {
                let error = io::Error::other(status.message().to_owned());
                *self.failure.lock() = Some(status);
                Some(Err(error))
            }
        }
    }
}

/// The messages of an answer.
struct Answers {
    body: Body,
    buffer: BytesMut,
}

impl Answers {
    /// The next message; none when the call ended well.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return Err(refusal::unreadable("it has no status"));
            };
            let frame = frame.map_err(refusal::unreadable)?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return match Status::from_header_map(&trailers) {
                        Some(status) if status.code() == Code::Ok => Ok(None),
                        Some(status) => Err(status),
                        None => Err(refusal::unreadable("it has no status")),
                    };
                }
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((head, _)) = self.buffer.split_first_chunk::<FRAME>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err(refusal::unreadable("it is compressed"));
        }
        if length > ANSWER_MAX {
            return Err(refusal::too_much(ANSWER_MAX));
        }
        if self.buffer.len() < FRAME + length {
            return Ok(None);
        }
        self.buffer.advance(FRAME);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// The answers of a stream: a JSON object a line, each in a piece of its own, since clients read
/// pieces.
struct Lines {
    of: MessageDescriptor,
    desks: Desks,
    answers: Answers,
    first: Option<Bytes>,
    failure: Failure,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let message = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.answers.next().await,
        };
        let failure = self.failure.lock().take();
        let line = match (message, failure) {
            (Ok(Some(message)), None) => line(&self.desks, self.of.clone(), message).await,
            (Ok(None), None) => {
                self.ended = true;
                return None;
            }
            (_, Some(status)) | (Err(status), None) => Err(status),
        };
        Some(line.unwrap_or_else(|status| {
            self.ended = true;
            refusal::line(&status).into()
        }))
    }
}

async fn line(desks: &Desks, of: MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let bytes = message.len();
    let written = move || {
        let mut line = b"{\"result\":".to_vec();
        write_json(&of, message, &mut line)?;
        line.extend_from_slice(b"}\n");
        Ok(line.into())
    };
    desks.run(bytes, written).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_and_metadata_pass_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "abc"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-status", "0"),
            ("grpc-metadata-content-type", "text/plain"),
            ("grpc-metadata-authorization", "def"),
            ("cookie", "x"),
            ("host", "h"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let seen = metadata(&headers);
        let mut seen: Vec<(&str, &str)> =
            seen.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                ("authorization", "abc"),
                ("authorization", "def"),
                ("content-type", "application/grpc"),
                ("hasleader", "true"),
                ("te", "trailers"),
            ]
        );
    }
}
