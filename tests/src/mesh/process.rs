//! A program in a runtime of its own: it can be killed.

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// A running program.
#[derive(Debug)]
pub struct Process<T> {
    runtime: Option<Runtime>,
    running: Option<T>,
}

impl<T: Send + 'static> Process<T> {
    /// Starts it.
    ///
    /// # Errors
    /// What `boot` says.
    pub async fn start(
        name: &str,
        boot: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        let booted = runtime.spawn(boot).await.context("it panicked");
        match booted.and_then(std::convert::identity) {
            Ok(running) => Ok(Self { runtime: Some(runtime), running: Some(running) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// What runs.
    ///
    /// # Panics
    /// If it was killed.
    pub fn running(&self) -> &T {
        self.running.as_ref().expect("it was not killed")
    }

    /// Drops every task where it stands. Returns when nothing of it is left.
    pub async fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // What still waits for the disk is let finish, as the kernel would; it is told to nobody.
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
            let _ = ended.await;
        }
        self.running = None;
    }

    /// Ends it by its own means, and then its runtime. What `drain` says.
    ///
    /// # Panics
    /// If it was killed, or panics while it drains.
    pub async fn end<F>(&mut self, drain: impl FnOnce(T) -> F) -> F::Output
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let running = self.running.take().expect("it was not killed");
        let runtime = self.runtime.as_ref().expect("it was not killed");
        let ended = runtime.spawn(drain(running)).await.expect("draining does not panic");
        self.kill().await;
        ended
    }
}

impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a runtime may not be waited for in another
        }
    }
}
