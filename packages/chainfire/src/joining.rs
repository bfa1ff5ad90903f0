//! How an empty data folder becomes a member's: by forming the cluster, or by asking to join it.

use std::sync::Arc;
use std::time::Duration;

use api::chainfire::JoinRequest;
use api::chainfire::membership_client::MembershipClient;
use bytes::Bytes;
use fault::{Fault, Kind};
use telemetry::Gate;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::codes;
use crate::data_dir::{DataDir, Owner};
use crate::server::{ALIVE, Peers, new_id};
use crate::settings::{Initial, Settings};

/// How long to wait when the member of this name is alive: it may be another machine, and then it
/// stays so, or what was here before, and then its time is over soon.
const PATIENCE: Duration = ALIVE;

/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The addresses under which others find this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Urls {
    pub(crate) peer: Vec<String>,
    pub(crate) client: Vec<String>,
}

/// The member's id: from the folder, or new; kept in the folder before it is used.
pub(crate) async fn member_id(
    settings: &Settings,
    data: &DataDir,
    owner: &mut Owner,
    urls: &Urls,
    peers: &Arc<Peers>,
    (gate, stop): (&Gate, &CancellationToken),
) -> Result<u64, Fault> {
    if let Some(id) = owner.member_id {
        return Ok(id);
    }
    let id = match settings.initial {
        Initial::Form => {
            owner.formed = true;
            new_id()
        }
        Initial::Join => join(settings, owner, urls, peers, gate, stop).await?,
    };
    owner.member_id = Some(id);
    data.keep_owner(owner)?;
    Ok(id)
}

/// Asks one member after the other, for as long as it takes: the cluster may come up later. Only
/// an answer that stays the same whatever happens ends it.
async fn join(
    settings: &Settings,
    owner: &Owner,
    urls: &Urls,
    peers: &Arc<Peers>,
    gate: &Gate,
    stop: &CancellationToken,
) -> Result<u64, Fault> {
    if settings.join.is_empty() {
        return Err(Fault::new(
            codes::SETTINGS,
            Kind::Invalid,
            "initial = \"join\", but join names no member",
            "give peer URLs of members, or initial = \"form\" on exactly one node",
        ));
    }
    let request = JoinRequest {
        cluster_id: settings.cluster_id.to_string(),
        name: settings.name.clone(),
        nonce: Bytes::copy_from_slice(owner.nonce.as_bytes()),
        peer_urls: urls.peer.clone(),
        client_urls: urls.client.clone(),
    };
    let mut backoff = rpc::Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut said = String::new();
    loop {
        let mut pause = backoff.next();
        for url in &settings.join {
            let asked = tokio::select! {
                () = stop.cancelled() => return Err(stopped()),
                asked = ask(url, request.clone(), peers) => asked,
            };
            let status = match asked {
                Ok(id) => {
                    tracing::info!(url, member = format!("{id:x}"), "joined");
                    return Ok(id);
                }
                Err(status) => status,
            };
            if is_final(&status) {
                return Err(refused(url, &status));
            }
            let why = Fault::from_status(&status)
                .map_or_else(|| status.message().to_owned(), |fault| fault.to_string());
            let displaces = is_alive(&status);
            if why != said {
                if displaces {
                    tracing::warn!(url, why, "not joined: this machine's name is taken");
                } else {
                    tracing::info!(url, why, "not joined yet");
                }
                gate.close(format!("joining: {why}"));
                said = why;
            }
            if displaces {
                // The leader said so, whoever was asked.
                pause = PATIENCE;
                break;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Err(stopped()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn ask(url: &str, request: JoinRequest, peers: &Arc<Peers>) -> Result<u64, Status> {
    let mut client = MembershipClient::new(peers.to_url(url)?);
    let mut request = Request::new(request);
    request.set_timeout(ANSWER_MAX);
    let answered = tokio::time::timeout(ANSWER_MAX, client.join(request)).await;
    let answer = answered.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    match answer.into_inner().member_id {
        0 => Err(Status::internal("the answer has no member id")),
        id => Ok(id),
    }
}

/// Whether the leader holds that the member of this name lives.
fn is_alive(status: &Status) -> bool {
    Fault::from_status(status).is_some_and(|fault| fault.code == codes::ALIVE)
}

/// Whether asking again cannot help.
fn is_final(status: &Status) -> bool {
    let fault = Fault::from_status(status);
    let code = fault.as_ref().map(|fault| fault.code);
    code == Some(codes::WRONG_CLUSTER)
        || matches!(
            status.code(),
            tonic::Code::InvalidArgument
                | tonic::Code::PermissionDenied
                | tonic::Code::Unauthenticated
        )
}

fn refused(url: &str, status: &Status) -> Fault {
    let hint = Fault::from_status(status).map(|fault| fault.hint).unwrap_or_default();
    let what = format!("{url} refused the join: {}", status.message());
    Fault::new(codes::JOIN, Kind::Precondition, what, hint)
}

fn stopped() -> Fault {
    Fault::new(codes::STOPPED, Kind::Unavailable, "stopped before it had joined", "")
}
