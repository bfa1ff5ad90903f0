//! Takes a backup from a running member, over etcd's API: MemberList, Status, Maintenance.Snapshot.
//!
//! No call of our own is needed: what a member sends as its snapshot is a store in transit, and
//! all else is found in it. So whoever may take etcd's snapshots may take backups.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{
    AuthenticateRequest, MemberListRequest, MemberListResponse, SnapshotRequest, StatusRequest,
};
use bytes::Bytes;
use consensus::Fatal;
use fault::{Fault, Kind};
use ring::digest::{Context, SHA256};
use rpc::Tls;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

use super::format::{BackupMember, DIGEST, FORMAT, Head, Summary, Writer};
use crate::codes;
use crate::store::transfer::{Record, Records};

/// How long a call may take, and how long the stream may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);
/// Messages of the stream that wait for the disk.
const QUEUE: usize = 8;

/// From where and how.
#[derive(Clone)]
pub struct SaveOptions {
    /// The member: `https://host:port`, or `http://` without TLS.
    pub endpoint: String,
    /// The caller's certificate.
    pub tls: Option<Tls>,
    /// Name and password, where the cluster asks for them.
    pub user: Option<(String, String)>,
    /// Take what the member has, without asking a majority first: for a member that has lost its
    /// cluster.
    pub local: bool,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file so far.
    pub bytes: u64,
    /// How many there will be, about; 0 where that is not known.
    pub about: u64,
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The checksum at its end, SHA-256 in hexadecimal.
    pub sha256: String,
    /// What it holds.
    #[serde(flatten)]
    pub summary: Summary,
}

/// Takes a backup. The file has its name only once it is whole and durable.
pub async fn save(
    options: &SaveOptions,
    path: &Path,
    progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Saved, Fault> {
    let channel = rpc::channel(&options.endpoint, options.tls.as_ref())?;
    let mut token = None;
    if let Some((name, password)) = &options.user {
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer = AuthClient::new(channel.clone()).authenticate(timed(request, None)).await;
        let answer = answer.map_err(|status| refused(&options.endpoint, &status))?;
        let token_of = answer.into_inner().token;
        token = Some(token_of.parse().map_err(|_| bad("the member's token is not text"))?);
    }
    let token = token.as_ref();
    let failed = |status: Status| refused(&options.endpoint, &status);
    // With a majority's word, what follows on this member holds all that was acknowledged before.
    let request = timed(MemberListRequest { linearizable: !options.local }, token);
    let list = ClusterClient::new(channel.clone()).member_list(request).await.map_err(failed)?;
    let mut member = MaintenanceClient::new(channel);
    let status = member.status(timed(StatusRequest {}, token)).await.map_err(failed)?;
    let about = status.into_inner().db_size_in_use.max(0) as u64;
    let head = head(options, list.into_inner())?;

    let mut request = Request::new(SnapshotRequest {});
    authorize(&mut request, token);
    let mut stream = member.snapshot(request).await.map_err(failed)?.into_inner();
    let (blobs, waiting) = mpsc::channel(QUEUE);
    let path = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let mut told = Told { last: Instant::now(), about, tell: progress };
        write(&path, &head, &mut Blobs::new(waiting), &mut |bytes| told.at(bytes))
    });
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await;
        let next = match next {
            Ok(Ok(Some(message))) => Ok(message.blob),
            Ok(Ok(None)) => break,
            Ok(Err(status)) => Err(failed(status)),
            Err(_) => Err(bad("the member sends nothing any more")),
        };
        let last = next.is_err();
        // A writer that is gone says why below.
        if blobs.send(next).await.is_err() || last {
            break;
        }
    }
    drop(blobs);
    writing.await.map_err(|e| bad(&e.to_string()))?
}

/// Writes the records of a stream to a file.
fn write(
    path: &Path,
    head: &Head,
    blobs: &mut Blobs,
    tell: &mut dyn FnMut(u64),
) -> Result<Saved, Fault> {
    let saved = write_records(path, head, &mut Records::new(blobs, true), tell);
    // What the member said comes before what followed from it.
    match blobs.fault.take() {
        Some(fault) => Err(fault),
        None => saved,
    }
}

pub(super) fn write_records(
    path: &Path,
    head: &Head,
    records: &mut dyn Iterator<Item = Result<Record, Fatal>>,
    tell: &mut dyn FnMut(u64),
) -> Result<Saved, Fault> {
    let mut writer = Writer::create(path, head)?;
    for record in records {
        writer.record(&record.map_err(|fatal| bad(&fatal.0))?)?;
        tell(writer.written());
    }
    let (summary, sha256, bytes) = writer.finish()?;
    Ok(Saved { path: path.to_owned(), bytes, sha256, summary })
}

pub(super) struct Told<F> {
    pub(super) last: Instant,
    pub(super) about: u64,
    pub(super) tell: F,
}

impl<F: FnMut(Progress)> Told<F> {
    pub(super) fn at(&mut self, bytes: u64) {
        if self.last.elapsed() >= TELL {
            self.last = Instant::now();
            (self.tell)(Progress { bytes, about: self.about });
        }
    }
}

fn head(options: &SaveOptions, list: MemberListResponse) -> Result<Head, Fault> {
    let header = list.header.ok_or_else(|| bad("the member's answer has no header"))?;
    let members = list.members.into_iter().map(|member| BackupMember {
        id: format!("{:x}", member.id),
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        learner: member.is_learner,
    });
    Ok(Head {
        format: FORMAT,
        program: program(),
        begun: now(),
        source: options.endpoint.clone(),
        cluster_id: format!("{:x}", header.cluster_id),
        member_id: format!("{:x}", header.member_id),
        linearizable: !options.local,
        members: members.collect(),
    })
}

pub(super) fn program() -> String {
    format!("chainfire {}", telemetry::VERSION)
}

pub(super) fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn timed<T>(message: T, token: Option<&MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    authorize(&mut request, token);
    request
}

fn authorize<T>(request: &mut Request<T>, token: Option<&MetadataValue<Ascii>>) {
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
}

fn bad(what: &str) -> Fault {
    let hint = "try again, or another member; --local takes what a member has";
    Fault::new(codes::BACKUP_SOURCE, Kind::Unavailable, what.to_owned(), hint)
}

fn refused(endpoint: &str, status: &Status) -> Fault {
    let own = Fault::from_status(status).map(|own| own.hint).unwrap_or_default();
    let hint = match status.code() {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => {
            format!("{own}; --local takes what this member has").trim_start_matches("; ").into()
        }
        tonic::Code::Unimplemented => {
            "is this a member of chainfire? etcd's own: etcdctl snapshot save".into()
        }
        _ if own.is_empty() => "check the endpoint, the certificate and the user".to_owned(),
        _ => own,
    };
    let what = format!("{endpoint} gives no backup: {}", status.message());
    Fault::new(codes::BACKUP_SOURCE, Kind::Unavailable, what, hint)
}

/// The stream of a member: its chunks, then the SHA-256 of them all as the last message.
struct Blobs {
    waiting: mpsc::Receiver<Result<Bytes, Fault>>,
    ahead: VecDeque<Bytes>,
    digest: Option<Context>,
    fault: Option<Fault>,
}

impl Blobs {
    fn new(waiting: mpsc::Receiver<Result<Bytes, Fault>>) -> Blobs {
        let digest = Some(Context::new(&SHA256));
        Blobs { waiting, ahead: VecDeque::new(), digest, fault: None }
    }

    fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(digest) = &mut self.digest else { return Ok(None) };
        // The last message is no chunk: one is always held back.
        while self.ahead.len() < 2 {
            match self.waiting.blocking_recv() {
                Some(blob) => self.ahead.push_back(blob?),
                None => break,
            }
        }
        let chunk = self.ahead.pop_front();
        match chunk {
            Some(chunk) if !self.ahead.is_empty() => {
                digest.update(&chunk);
                Ok(Some(chunk))
            }
            last => {
                let found = self.digest.take().map(Context::finish);
                let whole = found.zip(last).is_some_and(|(found, last)| {
                    last.len() == DIGEST && found.as_ref() == last.as_ref()
                });
                if whole { Ok(None) } else { Err(bad("the member's snapshot came cut or damaged")) }
            }
        }
    }
}

impl Iterator for Blobs {
    type Item = Result<Bytes, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunk().transpose().map(|chunk| {
            chunk.map_err(|fault| {
                let fatal = Fatal::new(&fault);
                self.fault.get_or_insert(fault);
                fatal
            })
        })
    }
}
