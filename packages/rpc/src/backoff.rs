//! How long to wait before trying again.

use std::time::Duration;

/// Doubling pauses up to a limit, each shortened at random by up to half, so that many who lost the
/// same server do not come back in the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    /// Pauses from `min` to `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min: min.min(max), max, tries: 0 }
    }

    /// The next pause.
    #[allow(clippy::should_implement_trait)] // endless, and not for iterating
    pub fn next(&mut self) -> Duration {
        let full = self.min.saturating_mul(1 << self.tries.min(30)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It worked: the next pause is a short one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How often [`Backoff::next`] was called since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        for full in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            assert!(pause >= ms(full / 2) && pause <= ms(full), "{pause:?} of {full} ms");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= ms(1000));
        }
        backoff.reset();
        assert!(backoff.next() <= ms(100));
    }
}
