//! Keys and values: a value begins with its key, the rest does not compress.

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Bytes of a key.
pub(crate) const KEY: usize = 24;

/// The key of that number.
pub(crate) fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:018}"))
}

/// The value that belongs to a key.
pub(crate) fn with_filler(key: &[u8], filler: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(filler.len());
    value.extend_from_slice(key);
    value.extend_from_slice(filler.get(key.len()..).unwrap_or_default());
    value.into()
}

/// Bytes that do not compress, the same in every run.
pub(crate) fn filler(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::Rng::fill_bytes(&mut SmallRng::seed_from_u64(1), &mut bytes);
    bytes
}
