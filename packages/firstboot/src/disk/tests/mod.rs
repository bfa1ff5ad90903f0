//! Tests of the steps disk and install on the machine in memory, and on loop devices.

mod cuts;
mod loops;
mod nixos;
mod stops;
mod world;
