//! What etcd's newest clients ask for and those that are here do not: ranges as streams, downgrades,
//! and what a snapshot says of its rest.

use anyhow::{Result, bail, ensure};
use api::etcdserverpb::downgrade_request::DowngradeAction;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::*;
use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::one::One;

fn channel(one: &One) -> Result<Channel> {
    let tls = rpc::Tls::load(&one.operator)?;
    Ok(rpc::channel(&format!("https://{}", one.address()?), Some(&tls))?)
}

/// All messages of a stream, merged as protobuf merges, and how many there were.
async fn whole(
    kv: &mut KvClient<Channel>,
    request: RangeRequest,
) -> Result<(RangeResponse, usize), Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let (mut whole, mut messages) = (RangeResponse::default(), 0);
    while let Some(message) = stream.message().await? {
        let piece = message.range_response.unwrap_or_default();
        assert!(whole.header.is_none(), "header, more and count come last");
        messages += 1;
        whole.kvs.extend(piece.kvs);
        (whole.header, whole.more, whole.count) = (piece.header, piece.more, piece.count);
    }
    Ok((whole, messages))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_ranges_merges_to_the_range() -> Result<()> {
    let one = One::start_with("[limits]\nrequest_bytes = 20000").await?;
    let mut kv = KvClient::new(channel(&one)?);
    for number in 0..50 {
        let key = format!("s/{number:02}").into();
        let value = vec![b'x'; 3000].into();
        kv.put(PutRequest { key, value, ..Default::default() }).await?;
    }
    let key = Bytes::from("s/07");
    let deleted = kv.delete_range(DeleteRangeRequest { key, ..Default::default() }).await?;
    let now = deleted.into_inner().header.map_or(0, |header| header.revision);
    let all = RangeRequest { key: "s/".into(), range_end: "s0".into(), ..Default::default() };
    let ascending =
        RangeRequest { sort_order: SortOrder::Ascend as i32, serializable: true, ..all.clone() };
    let requests = [
        all.clone(),
        ascending,
        RangeRequest { limit: 20, ..all.clone() },
        RangeRequest { keys_only: true, ..all.clone() },
        RangeRequest { count_only: true, ..all.clone() },
        RangeRequest { revision: now - 1, ..all.clone() },
        RangeRequest { range_end: vec![0].into(), limit: 1, ..all.clone() },
        RangeRequest { range_end: Bytes::new(), ..all.clone() },
        RangeRequest { key: "s/03".into(), range_end: Bytes::new(), ..all.clone() },
    ];
    for request in requests {
        let range = kv.range(request.clone()).await?.into_inner();
        let bytes: usize = range.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let (merged, messages) = whole(&mut kv, request.clone()).await?;
        ensure!(merged == range, "{request:?}");
        ensure!(messages > bytes / 25_000, "{messages} messages for {bytes} bytes");
    }
    let sorted = RangeRequest { sort_order: SortOrder::Descend as i32, ..all.clone() };
    let by_value = RangeRequest { sort_target: SortTarget::Value as i32, ..sorted.clone() };
    let bounded = RangeRequest { min_mod_revision: 3, ..all.clone() };
    for (request, code) in [
        (sorted, Code::Unimplemented),
        (by_value, Code::Unimplemented),
        (bounded, Code::Unimplemented),
        (RangeRequest { revision: now + 1, ..all.clone() }, Code::OutOfRange),
        (RangeRequest { key: Bytes::new(), ..all }, Code::InvalidArgument),
    ] {
        match whole(&mut kv, request.clone()).await {
            Err(status) => ensure!(status.code() == code, "{request:?}: {status:?}"),
            Ok(_) => bail!("not refused: {request:?}"),
        }
    }
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrades_and_snapshots_say_what_is_true() -> Result<()> {
    let one = One::start().await?;
    let mut kv = KvClient::new(channel(&one)?);
    let put = PutRequest { key: "a".into(), ..Default::default() };
    kv.put(put).await?;
    let mut upkeep = MaintenanceClient::new(channel(&one)?);
    let invalid = (Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    let malformed = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    for (action, version, (code, words)) in [
        (DowngradeAction::Validate as i32, "3.6", invalid),
        (DowngradeAction::Enable as i32, "3.6.0", invalid),
        (DowngradeAction::Validate as i32, "x", malformed),
        (
            DowngradeAction::Cancel as i32,
            "",
            (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
        ),
        (9, "3.6", (Code::Unknown, "etcdserver: unknown method")),
    ] {
        let request = DowngradeRequest { action, version: version.into() };
        match upkeep.downgrade(request).await {
            Err(status) => {
                ensure!(status.code() == code && status.message() == words, "{status:?}");
                let fault = fault::Fault::from_status(&status);
                ensure!(code == Code::Unknown || fault.is_some_and(|f| !f.hint.is_empty()));
            }
            Ok(_) => bail!("not refused: {action} {version}"),
        }
    }
    let mut snapshot = upkeep.snapshot(SnapshotRequest {}).await?.into_inner();
    let (mut bytes, mut at_end) = (0, 0);
    while let Some(piece) = snapshot.message().await? {
        bytes += piece.blob.len();
        ensure!(piece.version == "3.7.0");
        // clients take 0 for the end of the data; only the checksum follows
        at_end += usize::from(piece.remaining_bytes == 0);
        ensure!(at_end == 0 || piece.remaining_bytes == 0, "data after its end");
    }
    ensure!(bytes % 512 == 32 && at_end == 2, "{bytes} bytes, {at_end} at the end");
    one.member.stop().await;
    Ok(())
}
