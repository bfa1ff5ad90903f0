//! Limits on namespaces: chainfire.v1 Quotas.

use crate::endpoints::Repeat;
use crate::{Client, Error};
use api::chainfire as pb;
use api::chainfire::quotas_client::QuotasClient;
use bytes::Bytes;

/// The limits of all keys that begin with a prefix; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// What the keys begin with; empty is every key.
    pub prefix: Bytes,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and their values.
    pub bytes: u64,
    /// Requests a second, on each member.
    pub requests_per_second: u64,
}

/// A namespace's limits and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The limits.
    pub quota: Quota,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and their values.
    pub bytes: u64,
}

impl From<pb::QuotaUsage> for QuotaUsage {
    fn from(usage: pb::QuotaUsage) -> QuotaUsage {
        let pb::Quota { prefix, keys, bytes, requests_per_second } =
            usage.quota.unwrap_or_default();
        let quota = Quota { prefix, keys, bytes, requests_per_second };
        QuotaUsage { quota, keys: usage.keys, bytes: usage.bytes }
    }
}

impl Client {
    /// Sets the limits of a namespace; answers what it holds already.
    pub async fn set_quota(&self, quota: Quota) -> Result<QuotaUsage, Error> {
        let Quota { prefix, keys, bytes, requests_per_second } = quota;
        let quota = pb::Quota { prefix, keys, bytes, requests_per_second };
        let request = pb::SetQuotaRequest { quota: Some(quota) };
        // the same once more changes nothing
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| {
                let request = request.clone();
                async move { QuotasClient::new(channel).set(request).await }
            })
            .await?;
        Ok(answer.usage.unwrap_or_default().into())
    }

    /// The limits of exactly this prefix.
    pub async fn quota(&self, prefix: impl Into<Bytes>) -> Result<QuotaUsage, Error> {
        let request = pb::GetQuotaRequest { prefix: prefix.into() };
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| {
                let request = request.clone();
                async move { QuotasClient::new(channel).get(request).await }
            })
            .await?;
        Ok(answer.usage.unwrap_or_default().into())
    }

    /// All limits, by prefix.
    pub async fn quotas(&self) -> Result<Vec<QuotaUsage>, Error> {
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                let client = QuotasClient::new(channel).max_decoding_message_size(usize::MAX);
                { client }.list(pb::ListQuotasRequest {}).await
            })
            .await?;
        Ok(answer.usages.into_iter().map(QuotaUsage::from).collect())
    }

    /// Takes the limits of exactly this prefix away.
    pub async fn delete_quota(&self, prefix: impl Into<Bytes>) -> Result<(), Error> {
        let request = pb::DeleteQuotaRequest { prefix: prefix.into() };
        self.endpoints
            .call(Repeat::IfNothingDone, |channel| {
                let request = request.clone();
                async move { QuotasClient::new(channel).delete(request).await }
            })
            .await
            .map(|_| ())
    }
}
