//! When which lease ends: the table that the leader keeps. Pure; time is handed in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::LeaseInfo;

/// The deadlines of all leases.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    leases: HashMap<i64, Lease>,
    order: BTreeSet<(Instant, i64)>,
    /// Their expiry is proposed: they are not renewed any more.
    expiring: HashSet<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: i64,
    deadline: Instant,
    /// What the log says is left; 0 is all.
    noted: i64,
}

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// There is no such lease, or it is ending.
    Gone,
    /// It has its whole time again.
    Yes {
        /// Seconds.
        ttl: i64,
        /// The log says that less is left, and must be told.
        noted: bool,
    },
}

fn seconds(seconds: i64) -> Duration {
    // The largest time to live fits in any clock; a negative one ends at once.
    Duration::from_secs(seconds.clamp(0, crate::store::MAX_LEASE_TTL) as u64)
}

impl Deadlines {
    /// A lease as the log has it. One that is known keeps its deadline.
    pub(crate) fn learn(&mut self, info: LeaseInfo, now: Instant, extra: Duration) {
        if let Some(lease) = self.leases.get_mut(&info.id) {
            (lease.ttl, lease.noted) = (info.ttl, info.remaining);
            return;
        }
        let left = if info.remaining > 0 { info.remaining.min(info.ttl) } else { info.ttl };
        let deadline = now + seconds(left) + extra;
        self.leases.insert(info.id, Lease { ttl: info.ttl, deadline, noted: info.remaining });
        self.order.insert((deadline, info.id));
    }

    pub(crate) fn forget(&mut self, id: i64) {
        self.expiring.remove(&id);
        if let Some(lease) = self.leases.remove(&id) {
            self.order.remove(&(lease.deadline, id));
        }
    }

    /// Forgets all but these.
    pub(crate) fn keep(&mut self, ids: &HashSet<i64>) {
        let gone: Vec<i64> = self.leases.keys().filter(|id| !ids.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// Gives a lease its whole time from `now`. It never ends sooner by that.
    pub(crate) fn renew(&mut self, id: i64, now: Instant) -> Renewed {
        if self.expiring.contains(&id) {
            return Renewed::Gone;
        }
        let Some(lease) = self.leases.get_mut(&id) else { return Renewed::Gone };
        self.order.remove(&(lease.deadline, id));
        lease.deadline = lease.deadline.max(now + seconds(lease.ttl));
        self.order.insert((lease.deadline, id));
        Renewed::Yes { ttl: lease.ttl, noted: lease.noted > 0 }
    }

    /// Seconds left, and granted.
    pub(crate) fn left(&self, id: i64, now: Instant) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        Some((lease.deadline.saturating_duration_since(now).as_secs() as i64, lease.ttl))
    }

    /// When the next lease ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Takes leases that are over, at most `most`; they cannot be renewed any more.
    pub(crate) fn take_over(&mut self, now: Instant, most: usize) -> Vec<i64> {
        let over: Vec<i64> = self
            .order
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(most)
            .map(|(_, id)| *id)
            .collect();
        for id in &over {
            if let Some(lease) = self.leases.get(id) {
                self.order.remove(&(lease.deadline, *id));
            }
            self.expiring.insert(*id);
        }
        over
    }

    /// Their expiry failed: it is tried again at `then`.
    pub(crate) fn put_back(&mut self, ids: &[i64], then: Instant) {
        for id in ids {
            if !self.expiring.contains(id) {
                continue;
            }
            if let Some(lease) = self.leases.get_mut(id) {
                // Still marked as expiring: a client was told that it is gone.
                lease.deadline = then;
                self.order.insert((then, *id));
            }
        }
    }

    /// What should be noted in the log: leases that live longer than `every` and have lost time
    /// since the last note. They count as noted from here on: what is renewed before the log says
    /// so must be noted again.
    pub(crate) fn take_notes(&mut self, now: Instant, every: Duration) -> Vec<(i64, i64)> {
        let mut notes: Vec<(i64, i64)> = self
            .leases
            .iter()
            .filter(|(id, lease)| seconds(lease.ttl) > every && !self.expiring.contains(id))
            .filter_map(|(id, lease)| {
                let left = lease.deadline.saturating_duration_since(now);
                // Rounded up: a leader that takes over at once must not end it early.
                let left = left.as_secs() as i64 + i64::from(left.subsec_nanos() > 0);
                let said = if lease.noted > 0 { lease.noted } else { lease.ttl };
                (left > 0 && left + every.as_secs() as i64 / 2 < said).then_some((*id, left))
            })
            .collect();
        for (id, left) in &notes {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.noted = *left;
            }
        }
        notes.sort_unstable();
        notes
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: i64, ttl: i64, remaining: i64) -> LeaseInfo {
        LeaseInfo { id, ttl, remaining }
    }

    const NONE: Duration = Duration::ZERO;

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_ends_at_its_time_and_a_renewal_moves_it() {
        let (mut table, now) = (Deadlines::default(), Instant::now());
        table.learn(info(1, 10, 0), now, NONE);
        table.learn(info(2, 5, 0), now, NONE);
        assert_eq!(table.next(), Some(after(now, 5)));
        assert_eq!(table.renew(2, after(now, 4)), Renewed::Yes { ttl: 5, noted: false });
        assert_eq!(table.left(2, after(now, 5)), Some((4, 5)));
        assert!(table.take_over(after(now, 8), 10).is_empty());
        assert_eq!(table.take_over(after(now, 9), 10), [2]);
        assert_eq!(table.renew(2, after(now, 9)), Renewed::Gone, "its end is under way");
        assert_eq!(table.renew(3, now), Renewed::Gone);
        table.forget(2);
        assert_eq!(table.next(), Some(after(now, 10)));
    }

    #[test]
    fn a_new_leader_goes_on_from_what_was_noted() {
        let (mut table, now) = (Deadlines::default(), Instant::now());
        table.learn(info(1, 3600, 100), now, Duration::from_secs(2));
        assert_eq!(table.left(1, now), Some((102, 3600)));
        assert_eq!(table.renew(1, now), Renewed::Yes { ttl: 3600, noted: true });
        table.learn(info(1, 3600, 0), now, NONE);
        assert_eq!(table.renew(1, now), Renewed::Yes { ttl: 3600, noted: false });
    }

    #[test]
    fn notes_are_for_long_leases_that_have_lost_time() {
        let (mut table, now) = (Deadlines::default(), Instant::now());
        let every = Duration::from_secs(60);
        table.learn(info(1, 3600, 0), now, NONE);
        table.learn(info(2, 60, 0), now, NONE);
        assert!(table.take_notes(after(now, 10), every).is_empty());
        assert_eq!(table.take_notes(after(now, 60), every), [(1, 3540)]);
        let renewed = table.renew(1, now);
        assert_eq!(renewed, Renewed::Yes { ttl: 3600, noted: true }, "the note is on its way");
        table.learn(info(1, 3600, 3540), now, NONE);
        assert!(table.take_notes(after(now, 61), every).is_empty());
    }

    #[test]
    fn a_note_never_says_less_than_is_left() {
        let (mut table, now) = (Deadlines::default(), Instant::now());
        table.learn(info(1, 100, 0), now, NONE);
        let then = now + Duration::from_millis(70_400);
        assert_eq!(table.take_notes(then, Duration::from_secs(10)), [(1, 30)], "29.6 are left");
    }

    #[test]
    fn what_could_not_be_expired_is_tried_again() {
        let (mut table, now) = (Deadlines::default(), Instant::now());
        for id in 1..=3 {
            table.learn(info(id, 1, 0), now, NONE);
        }
        let over = table.take_over(after(now, 1), 2);
        assert_eq!(over.len(), 2);
        table.put_back(&over, after(now, 3));
        assert_eq!(table.take_over(after(now, 2), 10), [3]);
        assert_eq!(table.take_over(after(now, 3), 10), over);
        table.keep(&HashSet::from([3]));
        assert_eq!(table.left(1, now), None);
    }
}
