//! Each service and its peers on the same work in one run.

fn main() {}
