//! What happened in a simulated world, line by line. Two runs of a seed must give the same lines.

use std::cell::RefCell;
use std::hash::Hasher;

use tokio::time::Instant;

thread_local! {
    static LINES: RefCell<(Option<Instant>, Vec<String>)> = const { RefCell::new((None, Vec::new())) };
}

/// Notes a line, with the time of the simulated world.
macro_rules! note {
    ($($what:tt)*) => { $crate::simulation::trace::add(format!($($what)*)) };
}
pub(super) use note;

pub(super) fn add(what: String) {
    LINES.with_borrow_mut(|(zero, lines)| {
        let now = Instant::now();
        let since = now - *zero.get_or_insert(now);
        lines.push(format!("{:>10.3}  {what}", since.as_secs_f64() * 1000.0));
    });
}

pub(super) fn lines() -> Vec<String> {
    LINES.with_borrow(|(_, lines)| lines.clone())
}

/// One number for all lines.
pub(super) fn digest() -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    LINES.with_borrow(|(_, lines)| lines.iter().for_each(|line| hash.write(line.as_bytes())));
    hash.finish()
}
