//! Error codes with a hint, and their mapping to gRPC and HTTP.
