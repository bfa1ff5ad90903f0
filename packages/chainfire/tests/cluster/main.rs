//! Whole clusters of real processes: killed, paused, cut off, fed with bad input.
//!
//! `PLASMA_SOAK=1` runs many more rounds. Figures are printed; only what must hold is asserted.

#![expect(clippy::print_stdout, reason = "measured figures are part of a test's result")]

mod bad_input;
mod certificates;
mod disk;
mod durability;
mod faults;
mod gossip;
mod leases;
mod members;
