//! Boot server: inventory, cluster CA, join tokens, the grant to form the cluster, progress.

pub mod wire;
