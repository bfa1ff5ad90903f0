//! chainfire.v1 Quotas: limits on namespaces, and each member's own count of requests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::chainfire::quotas_server::Quotas;
use api::chainfire::{
    DeleteQuotaRequest, DeleteQuotaResponse, GetQuotaRequest, GetQuotaResponse, ListQuotasRequest,
    ListQuotasResponse, QuotaUsage, SetQuotaRequest, SetQuotaResponse,
};
use api::chainfire_internal::QuotaChange;
use api::chainfire_internal::command::Request as Command;
use api::chainfire_internal::quota_change::Change;
use api::etcdserverpb::TxnRequest;
use api::etcdserverpb::request_op::Request as Op;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::auth::Caller;
use super::node::{Node, mismatch};
use super::refusal;
use crate::store::auth::guard::Guard;
use crate::store::{AuthError, QUOTAS_MAX, Reply, StoreError};

pub(crate) struct QuotaService(pub(crate) Arc<Node>);

impl QuotaService {
    async fn change(&self, caller: &Caller, change: Change) -> Result<(), Status> {
        let command = Command::Quota(QuotaChange { change: Some(change) });
        match self.0.propose_as(caller, command).await? {
            Reply::Quota => Ok(()),
            _ => Err(mismatch()),
        }
    }

    async fn usage(&self, prefix: &[u8]) -> Result<QuotaUsage, Status> {
        self.0.barrier().await?;
        let found = self
            .0
            .reader
            .quotas()
            .into_iter()
            .find(|usage| usage.quota.as_ref().is_some_and(|quota| quota.prefix == prefix));
        found.ok_or_else(|| refusal::store(StoreError::NoQuota))
    }

    async fn begin<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.0.demand_leader(request.metadata())?;
        let caller = self.0.caller(request).await?;
        self.0.allow_root(&caller).await?;
        Ok(caller)
    }
}

#[tonic::async_trait]
impl Quotas for QuotaService {
    async fn set(
        &self,
        request: Request<SetQuotaRequest>,
    ) -> Result<Response<SetQuotaResponse>, Status> {
        let caller = self.begin(&request).await?;
        let Some(quota) = request.into_inner().quota else {
            return Err(Status::from(&refusal::NO_LIMITS));
        };
        let prefix = quota.prefix.clone();
        self.change(&caller, Change::Set(quota)).await?;
        let usage = Some(self.usage(&prefix).await?);
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(SetQuotaResponse { header, usage }))
    }

    async fn get(
        &self,
        request: Request<GetQuotaRequest>,
    ) -> Result<Response<GetQuotaResponse>, Status> {
        self.begin(&request).await?;
        let usage = Some(self.usage(&request.into_inner().prefix).await?);
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(GetQuotaResponse { header, usage }))
    }

    async fn list(
        &self,
        request: Request<ListQuotasRequest>,
    ) -> Result<Response<ListQuotasResponse>, Status> {
        self.begin(&request).await?;
        self.0.barrier().await?;
        let usages = self.0.reader.quotas();
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(ListQuotasResponse { header, usages }))
    }

    async fn delete(
        &self,
        request: Request<DeleteQuotaRequest>,
    ) -> Result<Response<DeleteQuotaResponse>, Status> {
        let caller = self.begin(&request).await?;
        self.change(&caller, Change::Delete(request.into_inner().prefix)).await?;
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(DeleteQuotaResponse { header }))
    }
}

impl Node {
    /// Counts a read to the namespaces in which it begins, or refuses it. Whoever may not make it
    /// takes nothing from those who may.
    pub(crate) async fn admit(
        &self,
        caller: &Caller,
        check: impl Fn(Guard<'_>) -> Result<(), AuthError>,
        keys: impl FnOnce(&mut dyn FnMut(&Bytes)),
    ) -> Result<(), Status> {
        if !self.reader.has_rates() {
            return Ok(());
        }
        self.allow(caller, check).await?;
        self.admit_allowed(keys)
    }

    /// As [`Node::admit`], for what is known to be allowed. Costs one load where nobody is limited.
    pub(crate) fn admit_allowed(
        &self,
        keys: impl FnOnce(&mut dyn FnMut(&Bytes)),
    ) -> Result<(), Status> {
        if !self.reader.has_rates() {
            return Ok(());
        }
        let mut touched = BTreeMap::new();
        keys(&mut |key| touched.extend(self.reader.rates_of(key)));
        match self.rates.take(&touched, Instant::now()) {
            None => Ok(()),
            Some(prefix) => Err(refusal::over_rate(prefix, touched[prefix])),
        }
    }
}

/// How many requests each namespace may still make here: a bucket that holds one second's worth.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<Bytes, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// What is in it by now.
    fn fill(&mut self, rate: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * rate).min(rate);
        self.at = now;
        self.left
    }

    /// Whatever the rate, it is full again: the same as none.
    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= Duration::from_secs(1)
    }
}

impl Rates {
    /// Takes one request from each namespace, or from none: then it is told which has none left.
    fn take<'t>(&self, touched: &'t BTreeMap<Bytes, u64>, now: Instant) -> Option<&'t Bytes> {
        let mut buckets = self.0.lock();
        for (prefix, &rate) in touched {
            let rate = rate as f64;
            let bucket =
                buckets.entry(prefix.clone()).or_insert_with(|| Bucket { left: rate, at: now });
            if bucket.fill(rate, now) < 1.0 {
                return Some(prefix);
            }
        }
        for prefix in touched.keys() {
            if let Some(bucket) = buckets.get_mut(prefix) {
                bucket.left -= 1.0;
            }
        }
        // among them those of limits that are gone
        if buckets.len() > QUOTAS_MAX {
            buckets.retain(|_, bucket| !bucket.is_idle(now));
        }
        None
    }
}

/// Where the compares and the operations of a transaction begin, in all its branches.
pub(crate) fn each_key(txn: &TxnRequest, see: &mut dyn FnMut(&Bytes)) {
    for compare in &txn.compare {
        see(&compare.key);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Op::RequestRange(range)) => see(&range.key),
            Some(Op::RequestPut(put)) => see(&put.key),
            Some(Op::RequestDeleteRange(delete)) => see(&delete.key),
            Some(Op::RequestTxn(nested)) => each_key(nested, see),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(rates: &[(&'static str, u64)]) -> BTreeMap<Bytes, u64> {
        rates.iter().map(|&(prefix, rate)| (prefix.into(), rate)).collect()
    }

    #[test]
    fn a_bucket_holds_one_seconds_worth() {
        let rates = Rates::default();
        let two = touched(&[("a", 2)]);
        let begin = Instant::now();
        let took = |millis| rates.take(&two, begin + Duration::from_millis(millis)).is_none();
        assert!(took(0) && took(0) && !took(0));
        assert!(!took(400) && took(500) && !took(500));
        assert!(took(60_000) && took(60_000) && !took(60_000));
    }

    #[test]
    fn what_one_namespace_refuses_costs_the_others_nothing() {
        let rates = Rates::default();
        let (outer, inner) = (touched(&[("", 3)]), touched(&[("", 3), ("a/", 1)]));
        let now = Instant::now();
        assert_eq!(rates.take(&inner, now), None);
        for _ in 0..5 {
            assert_eq!(rates.take(&inner, now).map(|prefix| prefix.as_ref()), Some(&b"a/"[..]));
        }
        assert!(rates.take(&outer, now).is_none() && rates.take(&outer, now).is_none());
        assert!(rates.take(&outer, now).is_some());
    }

    #[test]
    fn buckets_that_nobody_needs_go() {
        let rates = Rates::default();
        let begin = Instant::now();
        let name = |n: usize| Bytes::from(n.to_string());
        for n in 0..QUOTAS_MAX {
            rates.take(&BTreeMap::from([(name(n), 1)]), begin);
        }
        let later = begin + Duration::from_millis(999);
        rates.take(&BTreeMap::from([(name(QUOTAS_MAX), 1)]), later);
        assert_eq!(rates.0.lock().len(), QUOTAS_MAX + 1, "each may still refuse");
        let later = begin + Duration::from_secs(1);
        rates.take(&BTreeMap::from([(name(QUOTAS_MAX), 1)]), later);
        assert!(rates.take(&BTreeMap::from([(name(0), 1)]), later).is_none());
        assert_eq!(rates.0.lock().len(), 2);
    }
}
