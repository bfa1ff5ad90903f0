//! Real servers and clients on loopback, with real certificates.

mod garbage;
mod grpc;
mod https;
mod refusals;
mod rotation;
mod server_time;
mod stop;
mod world;
