//! The ordered key-value engine behind StorageBackend.
