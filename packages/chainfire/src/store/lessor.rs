//! The lease commands.

use api::chainfire_internal::{LeaseExpire, LeaseRemaining};
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
};

use super::StoreError;
use super::apply::Batch;
use super::command::header;
use super::lease::{LeaseChange, LeaseInfo, MAX_LEASE_TTL};

impl Batch<'_> {
    pub(super) fn lease_grant(
        &mut self,
        request: &LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, StoreError> {
        // The proposer picks an id where the client did not: choosing here would differ by member.
        if request.id == 0 {
            return Err(StoreError::LeaseNotFound);
        }
        if request.ttl > MAX_LEASE_TTL {
            return Err(StoreError::LeaseTtlTooLarge);
        }
        if self.done.leases.get(&self.state.leases, request.id).is_some() {
            return Err(StoreError::LeaseExists);
        }
        let info = LeaseInfo { id: request.id, ttl: request.ttl, remaining: 0 };
        self.done.leases.set(info);
        self.done.lease_changes.push(LeaseChange::Granted(info));
        Ok(LeaseGrantResponse {
            header: header(self.done.revision),
            id: request.id,
            ttl: request.ttl,
            error: String::new(),
        })
    }

    pub(super) fn lease_revoke(
        &mut self,
        request: &LeaseRevokeRequest,
    ) -> Result<LeaseRevokeResponse, StoreError> {
        if !self.revoke(request.id) {
            return Err(StoreError::LeaseNotFound);
        }
        Ok(LeaseRevokeResponse { header: header(self.seen()) })
    }

    /// Takes the lessor's part; answers the claim's number. An entry may hold commands of several
    /// members, but only one claim.
    pub(super) fn lessor_claim(&mut self) -> Result<u64, StoreError> {
        if self.done.lessor == self.index {
            return Err(StoreError::NotLessor);
        }
        self.done.lessor = self.index;
        Ok(self.index)
    }

    fn check_claim(&self, claim: u64) -> Result<(), StoreError> {
        if claim == self.done.lessor { Ok(()) } else { Err(StoreError::NotLessor) }
    }

    /// Each lease's keys go in one revision of their own.
    pub(super) fn lease_expire(&mut self, request: &LeaseExpire) -> Result<Vec<i64>, StoreError> {
        self.check_claim(request.claim)?;
        let mut gone = Vec::new();
        for &id in &request.ids {
            if self.revoke(id) {
                gone.push(id);
                self.end();
            }
        }
        Ok(gone)
    }

    fn revoke(&mut self, id: i64) -> bool {
        if self.done.leases.get(&self.state.leases, id).is_none() {
            return false;
        }
        for key in self.done.leases.keys(&self.state.leases, id) {
            if let Some(entry) = self.get(&key) {
                self.delete(entry);
            }
        }
        self.done.leases.remove(id);
        self.done.lease_changes.push(LeaseChange::Gone(id));
        true
    }

    pub(super) fn lease_remaining(&mut self, request: &LeaseRemaining) -> Result<(), StoreError> {
        self.check_claim(request.claim)?;
        for checkpoint in &request.checkpoints {
            if let Some(info) = self.done.leases.get(&self.state.leases, checkpoint.id) {
                let info = LeaseInfo { remaining: checkpoint.remaining_ttl, ..info };
                self.done.leases.set(info);
                self.done.lease_changes.push(LeaseChange::Checkpointed(info));
            }
        }
        Ok(())
    }
}
