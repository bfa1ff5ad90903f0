//! Cluster CA, node and service certificates with SPIFFE ids, join tokens.
