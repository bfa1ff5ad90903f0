//! Raft over journal, engine and rpc: one group or many on one log and one transport.
