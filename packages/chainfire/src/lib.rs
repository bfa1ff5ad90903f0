//! Chainfire, the cluster's key-value store: etcd's v3 API on Raft.

pub mod store;
