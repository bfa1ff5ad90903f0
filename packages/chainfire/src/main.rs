//! The `chainfire` command.

fn main() {}
