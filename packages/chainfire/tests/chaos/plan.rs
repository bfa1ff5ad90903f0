//! What happens in a round, drawn from the seed and the round's number alone.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// One fault. Who it strikes is a place among the voters, or whoever leads when it strikes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// kill -9, and started again at the end.
    Kill(Whom),
    /// All at once.
    KillAll,
    /// SIGSTOP, and SIGCONT at the end.
    Pause(Whom),
    /// Cut off from all others, both ways.
    Isolate(Whom),
    /// Cut off one way only.
    Deaf {
        whom: Whom,
        /// It is heard and does not hear; else the other way round.
        speaks: bool,
    },
    /// Two members do not reach each other; the third reaches both.
    Bridge(Whom),
    /// Every message is late.
    Slow { by: Duration },
    /// No room on its disk.
    Full(Whom),
    /// Its disk stands still.
    Stall(Whom),
    /// Its disk stands still again and again.
    Stutter { whom: Whom, still: Duration },
    /// Its wall clock jumps by seconds; back at the end.
    Clock { whom: Whom, by: i64 },
    /// It is down until the log has been cut, so that it needs a snapshot.
    Outrun(Whom),
    /// A fourth joins as a learner, is promoted, and leaves.
    Join,
    /// It loses its data and joins anew.
    Wipe(Whom),
    /// Leadership is handed over.
    Hand,
    /// History is cut, and space reclaimed, as far as was judged.
    Compact,
}

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Whom {
    Leader,
    Place(usize),
}

/// What this machine can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    pub(crate) disks: bool,
    pub(crate) clocks: bool,
}

/// A round.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) faults: Vec<Fault>,
    /// How long they last.
    pub(crate) lasts: Duration,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn draw(seed: u64, round: u64, means: Means) -> Plan {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round);
        let mut random = SmallRng::seed_from_u64(seed);
        let lasts = Duration::from_millis(random.random_range(400..1600));
        let kinds: u32 = 17;
        let mut faults: Vec<Fault> = Vec::new();
        // The kinds take turns, so that a few rounds have them all; what goes with them is by chance.
        let first = draw(&mut random, (round % u64::from(kinds)) as u32, means);
        let alone = matches!(first, Fault::Join | Fault::Wipe(_) | Fault::Outrun(_));
        faults.push(first);
        if random.random_bool(0.5) {
            let kind = match alone {
                // What needs the others' help is joined by what they can bear.
                true => *[6, 9, 10, 14].choose(&mut random).unwrap_or(&6),
                false => random.random_range(0..11),
            };
            let second = draw(&mut random, kind, means);
            if second != faults[0] {
                faults.push(second);
            }
        }
        Plan { faults, lasts, seed }
    }
}

fn draw(random: &mut SmallRng, kind: u32, means: Means) -> Fault {
    let whom = match random.random_bool(0.5) {
        true => Whom::Leader,
        false => Whom::Place(random.random_range(0..3)),
    };
    let ms = |random: &mut SmallRng, range: std::ops::Range<u64>| {
        Duration::from_millis(random.random_range(range))
    };
    match kind {
        0 | 15 => Fault::Kill(whom),
        1 => Fault::Pause(whom),
        2 => Fault::Isolate(whom),
        3 => Fault::Deaf { whom, speaks: true },
        4 => Fault::Deaf { whom, speaks: false },
        5 => Fault::Bridge(whom),
        6 => Fault::Slow { by: ms(random, 5..80) },
        7 if means.disks => Fault::Full(whom),
        8 if means.disks => Fault::Stall(whom),
        9 if means.disks => Fault::Stutter { whom, still: ms(random, 10..200) },
        10 if means.clocks => {
            let by = random.random_range(60..86_400);
            Fault::Clock { whom, by: if random.random_bool(0.5) { by } else { -by.min(240) } }
        }
        11 => Fault::Outrun(whom),
        12 => Fault::Join,
        13 => Fault::Wipe(whom),
        14 => Fault::Compact,
        16 => Fault::Hand,
        // What this machine cannot do.
        _ => Fault::KillAll,
    }
}
