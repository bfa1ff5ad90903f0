//! etcd 3.7's `RangeStream`: a range as messages whose merge is the answer of `Range`.

use std::pin::Pin;

use api::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::kv::{KvService, is_quick};
use super::refusal;
use crate::store::auth::guard::Guard;
use crate::store::{Auth, Page, Pages, Reader, StoreError, check};

/// About the largest message, but for one pair that is larger.
const PAGE: usize = 1 << 20;

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

/// Answers page after page as the client takes them. Header, `more` and `count` come in the last
/// message, as etcd has it.
pub(super) async fn answer(
    service: &KvService,
    request: Request<RangeRequest>,
) -> Result<Response<Answers>, Status> {
    let node = &service.0;
    node.demand_leader(request.metadata())?;
    let caller = node.caller(&request).await?;
    let request = request.into_inner();
    check::range(&request).map_err(refusal::store)?;
    streamable(&request)?;
    node.admit(&caller, |guard| guard.range(&request), |see| see(&request.key)).await?;
    node.metrics.range.inc();
    if !request.serializable {
        node.barrier().await?;
    }
    let headers = node.headers.clone();
    let reader = &node.reader;
    if request.count_only {
        let quick = is_quick(&request);
        let check = |guard: Guard<'_>, request: &RangeRequest| guard.range(request);
        let answer = service.read(quick, caller, request, check, Reader::range).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let answer = RangeResponse { header: headers.at(revision), ..answer };
        let only = futures::stream::iter([Ok(message(answer))]);
        return Ok(Response::new(Box::pin(only)));
    }
    let allowed = |auth: &Auth| caller.check(auth, &|_| Vec::new(), |guard| guard.range(&request));
    // what is streamed was all there when the caller was allowed to read it
    let pages = reader.guarded(allowed, || reader.pages(&request)).map_err(refusal::store)?;
    let bytes = PAGE.min(node.limits.request_bytes);
    let answers = futures::stream::try_unfold(pages, move |pages| {
        let headers = headers.clone();
        async move {
            let (pages, page) = next(pages, bytes).await?;
            let Some(page) = page else { return Ok(None) };
            let mut answer = RangeResponse { kvs: page.kvs, ..Default::default() };
            if let Some(totals) = page.totals {
                answer.header = headers.at(totals.revision);
                (answer.more, answer.count) = (totals.more, totals.count);
            }
            Ok(Some((message(answer), pages)))
        }
    });
    Ok(Response::new(Box::pin(answers)))
}

fn message(answer: RangeResponse) -> RangeStreamResponse {
    RangeStreamResponse { range_response: Some(answer) }
}

/// Reads a page where reading may take its time.
async fn next(mut pages: Pages, bytes: usize) -> Result<(Pages, Option<Page>), Status> {
    let read = move || -> Result<_, StoreError> {
        let page = pages.next(bytes)?;
        Ok((pages, page))
    };
    match consensus::blocking(read).await {
        Ok(read) => read.map_err(refusal::store),
        Err(_) => Err(Status::from(&refusal::STOPPED)),
    }
}

/// etcd streams in key order only, and clients fall back to `Range` on this code.
fn streamable(request: &RangeRequest) -> Result<(), Status> {
    if !check::is_found_in_order(request) {
        return Err(Status::from(&refusal::STREAM_SORTS));
    }
    if check::has_revision_bounds(request) {
        return Err(Status::from(&refusal::STREAM_FILTERS));
    }
    Ok(())
}
