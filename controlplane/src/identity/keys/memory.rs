//! Keys that end with the process: after a restart there is a new authority, which others must fetch before they trust it. For
//! tests, and where the operator prefers that to a key at rest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::soft::SoftKey;
use super::{KeyError, KeyManager, SigningKey};

/// Keys of this process.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<String, Arc<dyn SigningKey>>>);

impl KeyManager for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        let key: Arc<dyn SigningKey> = Arc::new(SoftKey::generate()?.0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), key.clone());
        Ok(key)
    }

    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let place = || "keys in memory end with the process".to_owned();
        known.ok_or_else(|| KeyError::Missing { name: name.to_owned(), place: place() })
    }

    fn remove(&self, name: &str) -> Result<(), KeyError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect())
    }
}
