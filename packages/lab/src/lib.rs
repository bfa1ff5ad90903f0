//! Virtual machines on a network of their own, booted from the network into a formed cluster.
//!
//! A [`Lab`] is a network namespace with a bridge ([`netns`]), a boot server inside it
//! ([`server`]), and machines ([`machine`]) that have nothing but a card, blank disks and a serial
//! number. Everything above the machines is what runs on metal: the same boot server, agent, image
//! and inventory.
//!
//! What must stay true: however a lab's process ends, no machine, boot server or namespace of it
//! stays (see [`netns`]). A lab that fails says one of [`codes`]. Absent on purpose: a way to put
//! anything onto a machine's disk but booting it.

#![forbid(unsafe_code)]

mod accel;
pub mod codes;
pub mod console;
pub mod disk;
pub mod foreign;
pub mod image;
mod lab;
pub mod machine;
pub mod netns;
mod qmp;
pub mod server;
pub mod timing;
pub mod up;

pub use accel::accel;
pub use console::Console;
pub use disk::Disk;
pub use lab::{Lab, Options, address, joined, name};
pub use machine::{Accel, Firmware, Machine, Spec};
pub use netns::Network;
