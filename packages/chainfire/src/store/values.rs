//! Values of entries: from memory, else from the engine.

use std::sync::Arc;

use api::mvccpb::KeyValue;
use bytes::Bytes;
use engine::StorageBackend;

use super::StoreError;
use super::cache::Cache;
use super::entry::Entry;
use super::layout::{self, Spaces, Version};

/// Why a value could not be had.
#[derive(Debug)]
pub(super) enum Miss {
    /// It was compacted away, or a snapshot was installed, since the entry was looked up. Looking
    /// up again helps.
    Gone,
    Failed(StoreError),
}

impl From<StoreError> for Miss {
    fn from(error: StoreError) -> Miss {
        Miss::Failed(error)
    }
}

impl From<Miss> for StoreError {
    fn from(miss: Miss) -> StoreError {
        match miss {
            Miss::Gone => layout::damaged("missing version"),
            Miss::Failed(error) => error,
        }
    }
}

impl From<engine::EngineError> for StoreError {
    fn from(error: engine::EngineError) -> StoreError {
        StoreError::Engine(error.to_string())
    }
}

#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) engine: &'a dyn StorageBackend,
    pub(super) spaces: Spaces,
    pub(super) cache: &'a Cache,
}

impl Values<'_> {
    pub(super) fn value(&self, entry: &Arc<Entry>) -> Result<Bytes, Miss> {
        match entry.cached() {
            Some(value) => Ok(value),
            None => {
                let value = self.load(entry)?;
                if entry.fill(value.clone()) {
                    self.cache.turn([entry.clone()], []);
                }
                Ok(value)
            }
        }
    }

    pub(super) fn pair(&self, entry: &Arc<Entry>) -> Result<KeyValue, Miss> {
        Ok(entry.pair(self.value(entry)?))
    }

    /// Appends the pairs; what had to be loaded is handed to the cache at once at the end.
    pub(super) fn pairs<'e>(
        &self,
        entries: impl Iterator<Item = &'e Arc<Entry>>,
        out: &mut Vec<KeyValue>,
    ) -> Result<(), Miss> {
        let mut loaded = Vec::new();
        for entry in entries {
            let value = match entry.cached() {
                Some(value) => value,
                None => {
                    let value = self.load(entry)?;
                    if entry.fill(value.clone()) {
                        loaded.push(entry.clone());
                    }
                    value
                }
            };
            out.push(entry.pair(value));
        }
        if !loaded.is_empty() {
            self.cache.turn(loaded, []);
        }
        Ok(())
    }

    fn load(&self, entry: &Entry) -> Result<Bytes, Miss> {
        let key = layout::version_key(&entry.key, entry.modified, entry.sub);
        let record = self.engine.get(self.spaces.versions, &key).map_err(StoreError::from)?;
        match Version::decode(&record.ok_or(Miss::Gone)?)? {
            // A copy: the engine's bytes may be part of a larger block.
            Version::Live { value, .. } => Ok(Bytes::copy_from_slice(&value)),
            Version::Tombstone => Err(Miss::Failed(layout::damaged("version"))),
        }
    }
}
