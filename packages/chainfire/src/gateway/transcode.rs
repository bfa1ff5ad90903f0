//! Protobuf's JSON, as etcd's gateway writes it: field names as in the `.proto`, bytes in base64,
//! 64-bit numbers as strings, enums by name, and nothing that is at its default.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tokio::sync::Semaphore;
use tonic::Status;

use super::refusal::{malformed, unreadable};

/// Flag and length before each message of a gRPC body.
pub(super) const FRAME: usize = 5;

/// Messages up to this size are transcoded where they come in, in bytes.
const SMALL: usize = 64 << 10;
/// Larger ones at once, in the whole process.
const LARGE_AT_ONCE: usize = 4;

/// A JSON object as a gRPC frame. Unknown fields are passed over, as etcd does.
pub(super) fn to_frame(of: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(of.clone(), &mut parser, &options)
        .map_err(malformed)?;
    parser.end().map_err(malformed)?;
    Ok(frame(&message))
}

/// The message with nothing set, as a frame.
pub(super) fn empty_frame(of: &MessageDescriptor) -> Bytes {
    frame(&DynamicMessage::new(of.clone()))
}

fn frame(message: &DynamicMessage) -> Bytes {
    let size = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME + size);
    frame.put_u8(0);
    // a message is far smaller than 4 GiB: its JSON was bounded
    frame.put_u32(size as u32);
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// Writes an encoded message as JSON.
pub(super) fn write_json(
    of: &MessageDescriptor,
    message: Bytes,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let message = DynamicMessage::decode(of.clone(), message).map_err(unreadable)?;
    let mut writer = serde_json::Serializer::new(out);
    message.serialize_with_options(&mut writer, &options).map_err(unreadable)
}

/// Where messages are transcoded: a large one takes long, and many times its bytes.
#[derive(Clone)]
pub(super) struct Desks(Arc<Semaphore>);

impl Desks {
    pub(super) fn new() -> Desks {
        Desks(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }

    /// Transcodes so many bytes: few of them here, many on a thread that may take its time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if bytes <= SMALL {
            return work();
        }
        let stopped = |_| Status::from(&crate::server::refusal::STOPPED);
        let desk = self.0.clone().acquire_owned().await;
        let desk = desk.map_err(|_| Status::from(&crate::server::refusal::STOPPED))?;
        let work = move || {
            // free when the work is done, also when nobody waits for it any more
            let _desk = desk;
            work()
        };
        consensus::blocking(work).await.map_err(stopped)?
    }
}

#[cfg(test)]
mod tests {
    use api::etcdserverpb::request_op::Request;
    use api::etcdserverpb::response_op::Response;
    use api::etcdserverpb::*;
    use api::mvccpb::KeyValue;
    use prost_reflect::DescriptorPool;

    use super::*;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(api::FILE_DESCRIPTOR_SET).unwrap();
        pool.get_message_by_name(name).unwrap()
    }

    fn read<M: Message + Default>(name: &str, json: &str) -> Result<M, Status> {
        let frame = to_frame(&descriptor(name), json.as_bytes())?;
        assert_eq!(frame[..FRAME], [&[0][..], &(frame.len() as u32 - 5).to_be_bytes()].concat());
        Ok(M::decode(frame.slice(FRAME..)).unwrap())
    }

    fn written(name: &str, message: impl Message) -> String {
        let mut out = Vec::new();
        write_json(&descriptor(name), message.encode_to_vec().into(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_read_as_etcds_clients_write_them() {
        let put: PutRequest = read(
            "etcdserverpb.PutRequest",
            r#"{"key":"Zm9v","value":"_-8","lease":"7","prev_kv":true,"later":{"a":1}}"#,
        )
        .unwrap();
        assert_eq!(put.key, "foo");
        assert_eq!(put.value[..], [0xff, 0xef], "base64 of the URL kind, without padding");
        assert_eq!((put.lease, put.prev_kv), (7, true));

        let range =
            r#"{"key":"AA==","rangeEnd":"AA==","limit":3,"sort_order":"DESCEND","sort_target":3}"#;
        let range: RangeRequest = read("etcdserverpb.RangeRequest", range).unwrap();
        assert_eq!((range.limit, range.sort_order, range.sort_target), (3, 2, 3));
        assert_eq!(range.range_end[..], [0]);

        let txn = r#"{"compare":[{"result":"EQUAL","target":"CREATE","key":"YQ==","create_revision":"0"}],
            "success":[{"requestPut":{"key":"YQ==","value":"MQ=="}},{"request_txn":{}}]}"#;
        let txn: TxnRequest = read("etcdserverpb.TxnRequest", txn).unwrap();
        assert_eq!(txn.compare[0].target_union, Some(compare::TargetUnion::CreateRevision(0)));
        assert!(
            matches!(&txn.success[0].request, Some(Request::RequestPut(put)) if put.key == "a")
        );
        assert!(matches!(&txn.success[1].request, Some(Request::RequestTxn(_))));

        for wrong in [r#"{"key":7}"#, r#"{"key":"%%"}"#, r#"{"limit":"x"}"#, r#"{"key":"YQ=="}}"#] {
            let error = read::<RangeRequest>("etcdserverpb.RangeRequest", wrong).unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn answers_are_written_as_etcd_writes_them() {
        let header = |revision| {
            Some(ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision, raft_term: 2 })
        };
        let pair = KeyValue {
            key: "foo".into(),
            value: vec![0xff, 0xef].into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        let range =
            RangeResponse { header: header(3), kvs: vec![pair.clone()], more: false, count: 1 };
        assert_eq!(
            written("etcdserverpb.RangeResponse", range),
            r#"{"header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"3","raft_term":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"/+8="}],"count":"1"}"#,
        );
        let put = Response::ResponsePut(PutResponse::default());
        let txn = TxnResponse {
            header: None,
            succeeded: true,
            responses: vec![ResponseOp { response: Some(put) }],
        };
        assert_eq!(
            written("etcdserverpb.TxnResponse", txn),
            r#"{"succeeded":true,"responses":[{"response_put":{}}]}"#
        );
        let alarm = AlarmMember { member_id: 1, alarm: AlarmType::Nospace as i32 };
        assert_eq!(
            written("etcdserverpb.AlarmMember", alarm),
            r#"{"memberID":"1","alarm":"NOSPACE"}"#
        );
        let grant = LeaseGrantResponse { id: 5, ttl: 60, ..Default::default() };
        assert_eq!(written("etcdserverpb.LeaseGrantResponse", grant), r#"{"ID":"5","TTL":"60"}"#);
    }

    #[tokio::test]
    async fn small_messages_pass_while_large_ones_wait_for_a_desk() {
        let desks = Desks::new();
        let here = std::thread::current().id();
        let on = |bytes| desks.run(bytes, || Ok(std::thread::current().id()));
        assert_eq!(on(SMALL).await.unwrap(), here);
        assert_ne!(on(SMALL + 1).await.unwrap(), here, "the others are not held up");
        let busy = desks.0.clone().acquire_many_owned(LARGE_AT_ONCE as u32).await.unwrap();
        let large = desks.run(SMALL + 1, || Ok(()));
        let mut large = std::pin::pin!(large);
        assert!(futures::poll!(large.as_mut()).is_pending());
        assert_eq!(on(1).await.unwrap(), here);
        drop(busy);
        large.await.unwrap();
    }
}
