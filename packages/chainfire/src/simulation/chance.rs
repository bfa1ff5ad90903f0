//! All chance of a simulated world comes from its seed.
//!
//! The random numbers of tokio (which branch of `select!` comes first, which waiter wakes first), of
//! `rand` and of hash maps all begin with the system's `getrandom`. In a process that simulates,
//! this one answers instead. Each thread has a stream of its own, so that threads of the test
//! harness do not matter. Whoever asks the system for the time (h2 does) finds that it stands still.

use std::cell::Cell;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers from a seed; the same on every machine.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed ^ 0x5bd1_e995_9e37_79b9)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Another stream of numbers.
    pub(super) fn fork(&mut self) -> Dice {
        Dice(self.next())
    }
}

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STREAM: Cell<u64> = const { Cell::new(0) };
    static STANDS_STILL: Cell<bool> = const { Cell::new(false) };
}

/// From now on the system's clocks stand still for this thread.
pub(super) fn stop_the_clocks() {
    STANDS_STILL.set(true);
}

/// From now on all random numbers of this process come from the seed.
pub(super) fn seed_everything(seed: u64) {
    SEED.store(seed | 1 << 63, Ordering::SeqCst);
}

fn fill(bytes: &mut [u8]) {
    let seed = SEED.load(Ordering::SeqCst);
    if seed == 0 {
        let filled = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(bytes));
        return filled.expect("the system's random numbers");
    }
    let mut dice = Dice(seed ^ STREAM.get());
    bytes
        .chunks_mut(8)
        .for_each(|part| part.copy_from_slice(&dice.next().to_le_bytes()[..part.len()]));
    STREAM.set(dice.0 ^ seed);
}

/// In place of the C library's, for the whole test program.
#[allow(unsafe_code, reason = "the only way to take the place of a function of the C library")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    if len > 0 {
        // SAFETY: the caller gives room for `len` bytes, which is what the function is for.
        fill(unsafe { std::slice::from_raw_parts_mut(buffer, len) });
    }
    len as isize
}

/// The C library's.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

/// In place of the C library's, for the whole test program.
#[allow(unsafe_code, reason = "the only way to take the place of a function of the C library")]
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: i32, to: *mut Timespec) -> i32 {
    use rustix::time::{ClockId, clock_gettime};
    let now = if STANDS_STILL.get() {
        Timespec { seconds: 1_000_000_000, nanos: 0 }
    } else {
        let now = clock_gettime(match clock {
            0 => ClockId::Realtime,
            2 => ClockId::ProcessCPUTime,
            3 => ClockId::ThreadCPUTime,
            5 => ClockId::RealtimeCoarse,
            6 => ClockId::MonotonicCoarse,
            7 => ClockId::Boottime,
            _ => ClockId::Monotonic,
        });
        Timespec { seconds: now.tv_sec, nanos: now.tv_nsec as i64 }
    };
    // SAFETY: the caller gives room for one, which is what the function is for.
    unsafe { to.write(now) };
    0
}
