//! One leader at a time, with a fencing token: the create revision of the leader's key. A guarded
//! write compares it in the same transaction, so that a leader that slept through its own end
//! cannot write.

use crate::turn::{Turn, folder};
use crate::{Client, Error, KeyValue, Op};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use bytes::Bytes;
use std::ops::Deref;
use std::time::Duration;

/// Being the leader. Dropping it gives leadership up in the background;
/// [`Leadership::resign`] waits for that.
#[derive(Debug)]
pub struct Leadership {
    turn: Turn,
}

impl Client {
    /// Waits until this candidate leads. `value` tells others who it is. Dropping the future
    /// withdraws the candidate.
    pub async fn campaign(
        &self,
        election: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Leadership, Error> {
        let turn = self.line_up(election, value.into(), ttl).await?;
        turn.wait().await?;
        Ok(Leadership { turn })
    }

    /// Who leads now: the oldest candidate's key.
    pub async fn leader(&self, election: &str) -> Result<Option<KeyValue>, Error> {
        let prefix = Bytes::from(folder(election));
        let answer = self
            .range(RangeRequest {
                range_end: crate::prefix_end(&prefix),
                key: prefix,
                limit: 1,
                sort_order: SortOrder::Ascend as i32,
                sort_target: SortTarget::Create as i32,
                ..RangeRequest::default()
            })
            .await?;
        Ok(answer.kvs.into_iter().next())
    }
}

impl Deref for Leadership {
    type Target = Turn;

    fn deref(&self) -> &Turn {
        &self.turn
    }
}

impl Leadership {
    /// Tells others something new about the leader; errors as of [`Turn::put`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<i64, Error> {
        let (key, lease) = (self.key().clone(), self.lease().id());
        self.turn.guarded(Op::put_with_lease(key, value, lease)).await
    }

    /// Gives leadership up; the next candidate leads at once.
    pub async fn resign(self) -> Result<(), Error> {
        self.turn.leave().await
    }
}
