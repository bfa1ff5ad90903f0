//! Tests of the steps disk and install on the machine in memory, and on loop devices.

mod cuts;
mod loops;
mod stops;
mod world;
