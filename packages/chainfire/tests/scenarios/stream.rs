//! A watch stream as it is on the wire, message by message: what clients hide is what is tested.

use anyhow::{Context, Result};
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::LONG;

pub(crate) struct Stream {
    ask: mpsc::UnboundedSender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Stream {
    pub(crate) async fn open(channel: Channel) -> Result<Stream> {
        let (ask, asked) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
        // The server answers the call itself at once, whatever is asked later.
        let answers = client.watch(UnboundedReceiverStream::new(asked)).await?.into_inner();
        Ok(Stream { ask, answers })
    }

    pub(crate) fn ask(&self, request: RequestUnion) -> Result<()> {
        Ok(self.ask.send(WatchRequest { request_union: Some(request) })?)
    }

    /// Creates a watch and waits for the answer; its id.
    pub(crate) async fn create(&mut self, request: WatchCreateRequest) -> Result<i64> {
        self.ask(RequestUnion::CreateRequest(request))?;
        let created = self.next().await?;
        anyhow::ensure!(created.created && !created.canceled, "{created:?}");
        Ok(created.watch_id)
    }

    pub(crate) fn ask_progress(&self) -> Result<()> {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}))
    }

    pub(crate) async fn next(&mut self) -> Result<WatchResponse> {
        let next = tokio::time::timeout(LONG, self.answers.message()).await;
        next.context("the watch stream is silent")??.context("the watch stream ended")
    }
}

/// A watch of all keys that start with `prefix`, from `start` on.
pub(crate) fn prefix(prefix: &str, start: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: chainfire_client::prefix_end(prefix.as_bytes()),
        start_revision: start,
        ..WatchCreateRequest::default()
    }
}

/// The revisions of an answer's events, in order.
pub(crate) fn revisions(answer: &WatchResponse) -> Vec<i64> {
    answer.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).collect()
}
