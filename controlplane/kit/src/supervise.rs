//! No naked `tokio::spawn`: every task has a name and an answer to what its end means.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// A core task: if it ends before the drain does, the process stops.
    Shutdown,
    /// Its end is its own affair; only a panic is logged.
    Log,
}

/// The tasks of a program; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    drain: crate::drain::Drain,
    fatal: watch::Sender<Option<&'static str>>,
    stopping: Arc<AtomicBool>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new(crate::drain::Drain::new())
    }
}

impl Tasks {
    /// `drain` tells a core task's proper end from an untimely one.
    pub fn new(drain: crate::drain::Drain) -> Self {
        Self { tracker: TaskTracker::new(), drain, fatal: watch::Sender::new(None), stopping: Arc::default() }
    }

    /// Runs `task` until it ends.
    pub fn spawn<F>(&self, name: &'static str, on_exit: OnExit, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (drain, fatal, stopping) = (self.drain.clone(), self.fatal.clone(), self.stopping.clone());
        let running = tokio::spawn(task);
        self.tracker.spawn(async move {
            let ended = running.await;
            if let Err(panic) = &ended {
                error!(task = name, %panic, "task panicked");
            }
            if on_exit == OnExit::Shutdown && !drain.is_draining() && !stopping.load(Ordering::Relaxed) {
                error!(task = name, "a core task ended; stopping");
                fatal.send_replace(Some(name));
            }
        });
    }

    /// From now on no end is untimely: in a program that stops in stages, what served an earlier stage may end with it.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns the name of a core task once one has ended before the drain began.
    pub async fn fatal(&self) -> &'static str {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(name) => name.unwrap_or("unknown"),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until every task has ended, for `grace` at most. Whether all did.
    pub async fn join(&self, grace: Duration) -> bool {
        self.tracker.close();
        let ended = tokio::time::timeout(grace, self.tracker.wait()).await.is_ok();
        if !ended {
            warn!(left = self.tracker.len(), "tasks still running at the end of the grace");
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_core_task_is_fatal_unless_the_program_stops() {
        let tasks = Tasks::default();
        tasks.spawn("early", OnExit::Shutdown, async {});
        assert_eq!(tasks.fatal().await, "early");

        let tasks = Tasks::default();
        tasks.stopping();
        tasks.spawn("late", OnExit::Shutdown, async {});
        assert!(tasks.join(Duration::from_secs(5)).await);
        assert_eq!(*tasks.fatal.borrow(), None);
    }
}
