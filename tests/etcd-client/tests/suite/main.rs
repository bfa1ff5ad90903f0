//! Each call that the crate `etcd-client` has, on a store of the test's own.

mod auth;
mod elections;
mod keys;
mod leases;
mod members;
mod upkeep;
mod watches;
