//! Random calls at the gRPC surface of a whole member: every answer must be the model's, every
//! refusal the one that the store's error stands for, and a watch must show the model's events.

use std::time::Duration;

use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, ResponseHeader, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use api::mvccpb::Event;
use bytes::Bytes;
use tonic::service::Routes;
use tonic::{Status, Streaming};

use super::super::*;
use super::model::Model;
use super::script::Dice;
use crate::server::store_refusal;
use crate::simulation::Calm;

/// The revision only: the rest is the server's.
fn plain(header: &mut Option<ResponseHeader>) {
    *header = header.take().map(|header| {
        assert!(header.cluster_id != 0 && header.member_id == 1 && header.raft_term > 0);
        ResponseHeader { revision: header.revision, ..Default::default() }
    });
}

/// The same call over the wire; none if clients cannot make it.
async fn call(routes: &Routes, request: Request) -> Option<Result<Reply, Status>> {
    let (mut kv, mut lease) = (KvClient::new(routes.clone()), LeaseClient::new(routes.clone()));
    macro_rules! asked {
        ($client:ident . $method:ident ($request:expr) => $reply:path) => {
            match $client.$method($request).await.map(|answer| answer.into_inner()) {
                Ok(mut answer) => {
                    plain(&mut answer.header);
                    Ok($reply(answer))
                }
                Err(status) => Err(status),
            }
        };
    }
    Some(match request {
        Request::Put(put) => asked!(kv.put(put) => Reply::Put),
        Request::Range(range) => asked!(kv.range(range) => Reply::Range),
        Request::DeleteRange(delete) => asked!(kv.delete_range(delete) => Reply::DeleteRange),
        Request::Txn(txn) => asked!(kv.txn(txn) => Reply::Txn),
        Request::Compact(compact) => asked!(kv.compact(compact) => Reply::Compact),
        Request::LeaseGrant(grant) => asked!(lease.lease_grant(grant) => Reply::LeaseGrant),
        Request::LeaseRevoke(revoke) => asked!(lease.lease_revoke(revoke) => Reply::LeaseRevoke),
        _ => return None,
    })
}

async fn watch(routes: &Routes) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: 2,
        prev_kv: true,
        ..Default::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests =
        futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    WatchClient::new(routes.clone()).watch(requests).await.unwrap().into_inner()
}

async fn play(seed: u64) {
    let member = Calm::start(seed).await;
    let routes = member.routes();
    let (mut dice, mut model) = (Dice::new(seed), Model::new());
    let mut watching = watch(&routes).await;
    let mut seen: Vec<Event> = Vec::new();
    for step in 0..120 {
        let mut request = dice.command(model.revision(), u64::MAX - 1);
        if dice.one_in(4) {
            request = Request::Range(dice.range(model.revision()));
        }
        let Some(got) = call(&routes, request.clone()).await else { continue };
        let expected = match &request {
            Request::Range(range) => model.read(range).map(Reply::Range),
            other => model.apply(other),
        };
        match (got, expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(got, expected, "seed {seed}, {step}: {request:?}")
            }
            (Err(got), Err(expected)) => {
                let expected = store_refusal(expected);
                let of = |status: &Status| (status.code(), status.message().to_owned());
                assert_eq!(of(&got), of(&expected), "seed {seed}, {step}: {request:?}");
            }
            (got, expected) => panic!("seed {seed}, {step}: {request:?}: {got:?}, {expected:?}"),
        }
        // What is compacted before it is seen cannot be compared: so the watch keeps up.
        while seen.len() < model.events.len() {
            let answer = watching.message().await.unwrap().unwrap();
            assert!(!answer.canceled, "seed {seed}: {answer:?}");
            for event in answer.events {
                let expected = model.prev(&event);
                assert!(
                    event.prev_kv.is_none() || event.prev_kv == expected,
                    "{event:?}, {expected:?}"
                );
                seen.push(Event { prev_kv: None, ..event });
            }
        }
        assert_eq!(seen, model.events, "seed {seed}, {step}");
    }
    leases(&routes, &mut model).await;
    member.stop().await;
}

/// Leases are listed with their keys, and end together with them.
async fn leases(routes: &Routes, model: &mut Model) {
    let mut client = LeaseClient::new(routes.clone());
    let listed = client.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    let mut ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, model.leases.keys().copied().collect::<Vec<_>>());
    let zero = Bytes::from_static(b"\0");
    let all = RangeRequest { key: zero.clone(), range_end: zero, ..Default::default() };
    let pairs = model.read(&all).unwrap().kvs;
    for (id, (granted, _)) in &model.leases {
        let request = LeaseTimeToLiveRequest { id: *id, keys: true };
        let mut answer = client.lease_time_to_live(request).await.unwrap().into_inner();
        answer.keys.sort();
        assert_eq!(answer.granted_ttl, *granted);
        assert!((0..=*granted).contains(&answer.ttl), "{answer:?}");
        let attached = pairs.iter().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone());
        assert_eq!(answer.keys, attached.collect::<Vec<_>>());
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    let left = KvClient::new(routes.clone()).range(all).await.unwrap().into_inner().kvs;
    let unleased: Vec<_> = pairs.into_iter().filter(|kv| kv.lease == 0).collect();
    assert_eq!(left, unleased);
    let listed = client.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert!(listed.leases.is_empty(), "{listed:?}");
}

#[test]
fn answers_over_grpc_are_the_models() {
    for seed in super::seeds(1, 10, 500) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(play(seed));
    }
}
