//! etcd's own clients against Chainfire, over mutual TLS: etcdctl in every version that is here,
//! Python's `etcd3` and `etcd3gw`, and plain HTTP. What none of them asks for yet is asked by the generated client.
//!
//! `scripts/test` fetches the clients; a test without its client says so and does nothing.

mod ctl;
mod etcdctl_one;
mod etcdctl_three;
mod gateway;
mod one;
mod python;
mod upkeep;
