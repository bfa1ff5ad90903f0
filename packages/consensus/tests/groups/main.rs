//! Groups of one to three nodes, as their users see them.

#![allow(unreachable_pub)]

mod common;
mod crash;
mod door;
mod members;
mod one_node;
mod partition;
mod snapshot;
mod speed;
mod three_nodes;
