//! The pages of etcd's client port: `/version`, `/health`, `/livez` and `/readyz`. Nobody needs to
//! log in for them, as with etcd.

use std::sync::Arc;

use api::etcdserverpb::AlarmType;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::refusal;
use crate::server::{Node, VERSION};

type Asked = Query<Vec<(String, String)>>;

fn has(asked: &[(String, String)], name: &str, value: &str) -> bool {
    asked.iter().any(|(n, v)| n == name && v == value)
}

/// The API's version; cluster and storage have no other.
pub(super) async fn version() -> Response {
    let versions = json!({ "etcdserver": VERSION, "etcdcluster": VERSION, "storage": VERSION });
    refusal::json(StatusCode::OK, Body::from(versions.to_string()))
}

/// Whether this member can serve; with `serializable=true`, whether it answers local reads.
/// `exclude=NOSPACE` passes over that alarm.
pub(super) async fn health(State(node): State<Arc<Node>>, Query(asked): Asked) -> Response {
    let alarm = |alarm: AlarmType| format!("ALARM {}", alarm.as_str_name());
    let alarm = alarms(&node).find(|one| !has(&asked, "exclude", one.as_str_name())).map(alarm);
    let reason = match alarm {
        Some(alarm) => alarm,
        None if has(&asked, "serializable", "true") => String::new(),
        None if node.group.status().leader.is_none() => "RAFT NO LEADER".into(),
        None => match node.barrier().await {
            Ok(()) => String::new(),
            Err(status) => format!("RANGE ERROR:{}", status.message()),
        },
    };
    let healthy = reason.is_empty();
    let page = json!({ "health": healthy.to_string(), "reason": reason });
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    refusal::json(status, Body::from(page.to_string()))
}

fn alarms(node: &Node) -> impl Iterator<Item = AlarmType> + use<> {
    let raised = node.reader.alarms().into_iter();
    raised.filter_map(|member| AlarmType::try_from(member.alarm).ok())
}

/// Whether the process answers local reads.
pub(super) async fn livez(Query(asked): Asked) -> Response {
    checks(&asked, vec![("serializable_read", Ok(()))])
}

/// Whether clients should be sent here.
pub(super) async fn readyz(State(node): State<Arc<Node>>, Query(asked): Asked) -> Response {
    let corrupt = alarms(&node).any(|alarm| alarm == AlarmType::Corrupt);
    let status = node.group.status();
    let learner = status.member(status.me).is_some_and(|me| !me.voter);
    let read = node.barrier().await.map_err(|status| status.message().to_owned());
    let unless = |bad: bool, why: &str| if bad { Err(why.to_owned()) } else { Ok(()) };
    checks(
        &asked,
        vec![
            ("data_corruption", unless(corrupt, "alarm activated: CORRUPT")),
            ("linearizable_read", read),
            ("non_learner", unless(learner, "local member is a learner")),
            ("serializable_read", Ok(())),
        ],
    )
}

/// The outcome as text: "ok", or what failed; each check with `verbose`, none that `exclude` names.
fn checks(asked: &[(String, String)], mut found: Vec<(&str, Result<(), String>)>) -> Response {
    found.retain(|(name, _)| !has(asked, "exclude", name));
    let failed = found.iter().any(|(_, outcome)| outcome.is_err());
    let mut text = String::new();
    if failed || asked.iter().any(|(name, _)| name == "verbose") {
        for (name, outcome) in &found {
            text += &match outcome {
                Ok(()) => format!("[+]{name} ok\n"),
                Err(why) => format!("[-]{name} failed: {why}\n"),
            };
        }
    }
    if !failed {
        text += "ok\n";
    }
    let mut page = Response::new(Body::from(text));
    if failed {
        *page.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    page
}
