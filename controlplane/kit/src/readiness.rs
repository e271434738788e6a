//! Readiness by guards: whoever must be ready first holds one and drops it when it is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What is still awaited; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>); // a std mutex: nothing awaits while it is held

/// Holds readiness back until dropped.
#[derive(Debug)]
pub struct Guard {
    of: Readiness,
    name: &'static str,
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back under this name.
    pub fn guard(&self, name: &'static str) -> Guard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Guard { of: self.clone(), name }
    }

    /// The names still held; empty when ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.name);
    }
}
