//! Leases: what their holders were promised, and when they really ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::chance::Dice;
use super::clients::{Doors, patient};
use super::trace::note;
use super::truth::Truth;

/// One lease, as its holder knows it.
#[derive(Default)]
struct Held {
    /// It lives at least until then, unless it was revoked.
    promised: Option<Instant>,
    revoked: bool,
}

#[derive(Default)]
pub(super) struct Leases(BTreeMap<i64, Held>);

pub(super) struct Holder {
    pub(super) id: usize,
    pub(super) dice: Dice,
    pub(super) doors: Doors,
    pub(super) leases: Arc<Mutex<Leases>>,
    pub(super) granted: i64,
}

impl Holder {
    pub(super) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let pause = self.dice.between(10, 500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if let Err(status) = self.hold(until).await {
                note!("h{}: {:?} {}", self.id, status.code(), status.message());
            }
        }
    }

    fn client(&self) -> Result<LeaseClient<super::clients::Call>, Status> {
        let node = self.doors.any().ok_or_else(|| Status::unavailable("nobody runs"))?;
        Ok(LeaseClient::new(self.doors.to(node)))
    }

    fn promise(&self, id: i64, until: Instant) {
        let mut leases = self.leases.lock();
        let held = leases.0.entry(id).or_default();
        held.promised = held.promised.max(Some(until));
    }

    /// One lease from its grant to its end.
    async fn hold(&mut self, until: Instant) -> Result<(), Status> {
        self.granted += 1;
        let (id, ttl) = (1000 * self.id as i64 + self.granted, self.dice.between(1, 3) as i64);
        let asked = Instant::now();
        let grant = patient(self.client()?.lease_grant(LeaseGrantRequest { id, ttl })).await?;
        self.promise(id, asked + Duration::from_secs(grant.ttl as u64));
        note!("h{}: lease {id} for {} s", self.id, grant.ttl);
        if let Some(node) = self.doors.any() {
            let key = Bytes::from(format!("l/{id}"));
            let put = PutRequest {
                key,
                lease: id,
                value: Bytes::from_static(b"held"),
                ..Default::default()
            };
            let _ = patient(KvClient::new(self.doors.to(node)).put(put)).await;
        }
        for _ in 0..self.dice.below(8) {
            let pause = self.dice.between(100, 900 * grant.ttl as u64);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if Instant::now() >= until {
                break;
            }
            match self.dice.below(8) {
                0 => {
                    self.leases.lock().0.entry(id).or_default().revoked = true;
                    note!("h{}: revokes {id}", self.id);
                    patient(self.client()?.lease_revoke(LeaseRevokeRequest { id })).await?;
                    return Ok(());
                }
                1 => {
                    let asked = Instant::now();
                    let request = LeaseTimeToLiveRequest { id, keys: false };
                    let left = patient(self.client()?.lease_time_to_live(request)).await?;
                    if left.ttl > 0 {
                        self.promise(id, asked + Duration::from_secs(left.ttl as u64));
                    }
                }
                _ => self.renew(id).await?,
            }
        }
        Ok(())
    }

    async fn renew(&self, id: i64) -> Result<(), Status> {
        let asked = Instant::now();
        let request = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        let mut answers = patient(self.client()?.lease_keep_alive(request)).await?;
        let answer = tokio::time::timeout(Duration::from_secs(3), answers.message()).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("given up"))??;
        let ttl = answer.map_or(0, |answer| answer.ttl);
        note!("h{}: lease {id} renewed for {ttl} s", self.id);
        if ttl > 0 {
            self.promise(id, asked + Duration::from_secs(ttl as u64));
        }
        Ok(())
    }
}

impl Leases {
    pub(super) fn judge(&self, truth: &mut Truth) {
        let mut early = Vec::new();
        for (id, held) in &self.0 {
            let (Some(promised), Some(ended)) = (held.promised, truth.ended.get(id)) else {
                continue;
            };
            if !held.revoked && *ended < promised {
                early.push(format!("lease {id} ended {:?} early", promised - *ended));
            }
        }
        early.into_iter().for_each(|what| truth.violated(what));
    }

    /// Leases that ended by themselves.
    pub(super) fn expired(&self, truth: &Truth) -> usize {
        self.0.iter().filter(|(id, held)| !held.revoked && truth.ended.contains_key(id)).count()
    }
}
