//! The word to stop, heard by everyone who holds a [`Drain`].

use tokio_util::sync::CancellationToken;

/// Cheap to clone; all clones hear the same word. A child hears its parent's word, and its own.
#[derive(Clone, Debug, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// A drain that can be started alone, and is started with this one.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the word.
    pub fn start(&self) {
        self.0.cancel();
    }

    /// Returns when the word was given; at once if it was given before.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// Whether the word was given.
    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }
}
