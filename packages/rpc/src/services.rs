//! The standard gRPC services: health and reflection.

use fault::{Fault, Kind};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha;

use crate::codes;

/// gRPC health: the reporter sets what the service answers.
pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    tonic_health::server::health_reporter()
}

/// gRPC reflection for an encoded descriptor set.
pub fn reflection(
    descriptors: &'static [u8],
) -> Result<ServerReflectionServer<impl ServerReflection>, Fault> {
    builder(descriptors).build_v1().map_err(unreadable)
}

/// The older form of gRPC reflection, which many tools still ask for.
pub fn reflection_v1alpha(
    descriptors: &'static [u8],
) -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Fault> {
    builder(descriptors).build_v1alpha().map_err(unreadable)
}

fn builder(descriptors: &'static [u8]) -> Builder<'static> {
    Builder::configure().register_encoded_file_descriptor_set(descriptors)
}

fn unreadable(error: impl std::fmt::Display) -> Fault {
    Fault::new(
        codes::REFLECTION,
        Kind::Internal,
        format!("reflection data cannot be read: {error}"),
        "generate the API's code again: cargo xtask gen",
    )
}
