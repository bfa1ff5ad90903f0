//! The operator's command line, and a whole cloud on one machine.

fn main() {}
