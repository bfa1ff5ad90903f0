//! Netboot over real sockets: what a machine is told and given from its boot loader to its
//! certificates, what an operator orders, what hostile callers get, and a server that is killed.

mod files;
mod killed;
mod server;
mod way;
