//! All protobuf files and their generated code.
