//! Every decoder of bytes from outside gets valid inputs that were damaged, from a seed. The same
//! functions are in `fuzz/` for libFuzzer. `PLASMA_FUZZ_ROUNDS` asks for more rounds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chainfire::fuzz::Target;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Damage from a seed.
struct Dice(SmallRng);

impl Dice {
    /// Below the limit; 0 where that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit.max(1))
    }

    /// Bytes that decoders trip over.
    fn byte(&mut self) -> u8 {
        [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, self.0.random()][self.below(8)]
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        match self.below(9) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.byte()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            4 if at < bytes.len() => bytes[at] = self.byte(),
            5 if at + 4 <= bytes.len() => bytes[at..at + 4].fill(self.byte()),
            6 if at + 8 <= bytes.len() => bytes[at..at + 8].fill(self.byte()),
            7 => {
                let (from, to) = (self.below(other.len()), self.below(other.len()));
                bytes.splice(at..at, other[from.min(to)..from.max(to)].iter().copied());
            }
            _ => {
                let end = (at + self.below(20)).min(bytes.len());
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
        }
    }
}

fn survive(targets: &[Target], rounds: usize) {
    let rounds = std::env::var("PLASMA_FUZZ_ROUNDS").map_or(rounds, |n| n.parse().unwrap());
    for (name, decode, samples) in targets {
        let samples = samples();
        assert!(samples.iter().all(|sample| !sample.is_empty()), "{name}: no valid input");
        let mut dice = Dice(SmallRng::seed_from_u64(name.len() as u64));
        for round in 0..rounds + samples.len() {
            let mut bytes = samples[round % samples.len()].clone();
            // The valid ones first.
            if round >= samples.len() {
                for _ in 0..1 + dice.below(6) {
                    let other = dice.below(samples.len());
                    dice.damage(&mut bytes, &samples[other]);
                }
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| decode(&bytes))) {
                let why = panic.downcast_ref::<String>().map(String::as_str);
                panic!("{name}, round {round}: {}\n{bytes:02x?}", why.unwrap_or("it panicked"));
            }
        }
    }
}

#[test]
fn decoders_survive_damaged_journals() {
    survive(journal::fuzz::TARGETS, 1500);
}

#[test]
fn decoders_survive_damaged_engine_files() {
    survive(engine::fuzz::TARGETS, 600);
}

#[test]
fn decoders_survive_damaged_raft_messages() {
    survive(consensus::fuzz::TARGETS, 2000);
}

#[test]
fn decoders_survive_damaged_records_commands_and_requests() {
    survive(chainfire::fuzz::STORE, 1500);
}

#[test]
fn decoders_survive_damaged_settings() {
    survive(chainfire::fuzz::TARGETS, 2000);
}
