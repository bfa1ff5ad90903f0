//! The `bootserver` command.

fn main() {}
