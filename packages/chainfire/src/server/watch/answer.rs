//! Answers whose events are encoded once, however many watches they go to.

use std::sync::Arc;

use api::etcdserverpb::{WatchRequest, WatchResponse};
use api::mvccpb::Event;
use bytes::BufMut;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message};
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::server::refusal;
use crate::store::Changes;

/// The number of `events` in etcd's `WatchResponse`.
const EVENTS: u32 = 11;

/// A [`WatchResponse`] on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    /// All but the events.
    pub(super) head: WatchResponse,
    pub(super) events: Vec<Told>,
}

/// An event as a watch is told it.
#[derive(Debug)]
pub(super) enum Told {
    /// Just as it happened: the one at this place.
    Shared(Arc<Changes>, usize),
    /// With the pair before, or from history.
    Own(Event),
}

impl Told {
    pub(super) fn event(&self) -> &Event {
        match self {
            Told::Shared(changes, at) => &changes.events[*at],
            Told::Own(event) => event,
        }
    }
}

impl From<WatchResponse> for Answer {
    fn from(head: WatchResponse) -> Answer {
        Answer { head, events: Vec::new() }
    }
}

impl Answer {
    /// For whoever reads it in this process.
    pub(crate) fn into_response(self) -> WatchResponse {
        let mut response = self.head;
        response.events.extend(self.events.into_iter().map(|told| match told {
            Told::Shared(changes, at) => changes.events[at].clone(),
            Told::Own(event) => event,
        }));
        response
    }

    /// As [`Answer::into_response`] would be encoded.
    fn encode(&self, out: &mut impl BufMut) -> Result<(), prost::EncodeError> {
        self.head.encode(out)?;
        for told in &self.events {
            match told {
                Told::Shared(changes, at) => {
                    let event = changes.events.encoded(*at);
                    encode_key(EVENTS, WireType::LengthDelimited, out);
                    encode_varint(event.len() as u64, out);
                    out.put_slice(event);
                }
                Told::Own(event) => message::encode(EVENTS, event, out),
            }
        }
        Ok(())
    }
}

/// Takes requests as they are generated, and gives [`Answer`]s.
#[derive(Default)]
pub(super) struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Answer;
    type Decode = WatchRequest;
    type Encoder = AnswerEncoder;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> AnswerEncoder {
        AnswerEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstDecoder::default()
    }
}

pub(super) struct AnswerEncoder;

impl Encoder for AnswerEncoder {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Never: gRPC's buffer grows as it is written.
        answer.encode(out).map_err(|_| Status::from(&refusal::MISMATCH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb::ResponseHeader;
    use api::mvccpb::KeyValue;

    fn event(key: &'static str, value: usize) -> Event {
        let kv = KeyValue {
            key: key.into(),
            value: vec![7; value].into(),
            mod_revision: 300,
            ..KeyValue::default()
        };
        Event { r#type: 0, kv: Some(kv.clone()), prev_kv: (value == 1).then_some(kv) }
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_message_and_shared_by_all() {
        let changes = Arc::new(Changes {
            after: 299,
            revision: 300,
            events: vec![event("a", 3), Event::default(), event("b", 5000)].into(),
            before: Box::default(),
            leases: Box::default(),
            compacted: None,
            alarms: false,
        });
        let answer = || Answer {
            head: WatchResponse {
                header: Some(ResponseHeader { revision: 300, ..ResponseHeader::default() }),
                watch_id: 9,
                fragment: true,
                ..WatchResponse::default()
            },
            events: vec![
                Told::Shared(changes.clone(), 2),
                Told::Own(event("c", 1)),
                Told::Shared(changes.clone(), 1),
                Told::Shared(changes.clone(), 0),
            ],
        };
        let mut bytes = Vec::new();
        answer().encode(&mut bytes).unwrap();
        assert_eq!(bytes, answer().into_response().encode_to_vec());
        assert_eq!(WatchResponse::decode(&bytes[..]).unwrap(), answer().into_response());
        let first = changes.events.encoded(2).as_ptr();
        answer().encode(&mut bytes).unwrap();
        assert_eq!(changes.events.encoded(2).as_ptr(), first, "it is encoded once");
    }
}
