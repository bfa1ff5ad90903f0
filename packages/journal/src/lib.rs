//! The durable log that all Raft groups of a process share.
