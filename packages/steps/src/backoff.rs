//! How long to pause between two tries: doubling, capped, jittered.

use std::time::Duration;

/// The pauses of one step. The jitter comes from the caller's seed, so that a test can know it and
/// a rack of machines does not knock in step.
#[derive(Debug, Clone)]
pub struct Pause {
    tries: u32,
    seed: u64,
    longest: Duration,
}

const FIRST: Duration = Duration::from_millis(200);

impl Pause {
    /// No try has been made yet; no pause is longer than `longest`.
    pub fn new(seed: u64, longest: Duration) -> Self {
        Pause { tries: 0, seed: seed | 1, longest }
    }

    /// The next pause: between half and all of the doubled one, never over the longest.
    pub fn next_pause(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(10)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        // xorshift64: enough to spread machines out
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let half = full / 2;
        let spread = (half.as_millis() as u64).max(1);
        half + Duration::from_millis(self.seed % spread)
    }

    /// The next pause is short again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_never_pass_it() {
        const CAP: Duration = Duration::from_secs(10);
        for seed in 0..100 {
            let mut pause = Pause::new(seed, CAP);
            let first = pause.next_pause();
            assert!(first >= FIRST / 2 && first <= FIRST, "{first:?}");
            for _ in 0..50 {
                assert!(pause.next_pause() <= CAP);
            }
            assert!(pause.next_pause() >= CAP / 2);
            pause.reset();
            assert!(pause.next_pause() <= FIRST);
        }
    }
}
