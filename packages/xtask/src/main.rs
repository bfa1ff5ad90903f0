//! Checks and repairs of the tree: xtask verify, xtask fix.

fn main() {}
