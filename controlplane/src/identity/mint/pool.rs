//! Signatures are work for threads that nobody else waits for: as many at once as there are cores, and a bounded number in wait.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::error;

use crate::identity::Refusal;

/// Batches that may wait for a thread, or be on one.
const MAX_WAITING: usize = 512;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::identity) struct Pool {
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Pool {
    pub(in crate::identity) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(cores, MAX_WAITING)
    }

    fn of(running: usize, waiting: usize) -> Self {
        Self { waiting: Arc::new(Semaphore::new(waiting)), running: Arc::new(Semaphore::new(running)) }
    }

    /// Does the work when a thread is free. Work that is under way ends even if its caller goes away.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] if too much waits.
    pub(in crate::identity) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = self.waiting.try_acquire().map_err(|_| Refusal::Overloaded)?;
        let turn = self.running.clone().acquire_owned().await.map_err(|_| Refusal::Overloaded)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|panic| {
            error!(%panic, "minting panicked");
            Refusal::Unavailable
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fault_040_a_signer_that_hangs_fills_a_bounded_queue_and_blocks_nobody_else() {
        let pool = Pool::of(1, 3);
        let (release, hung) = mpsc::channel::<()>();
        let stuck = {
            let pool = pool.clone();
            tokio::spawn(async move { pool.run(move || hung.recv()).await })
        };
        while pool.running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..2)
            .map(|n| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.run(move || n).await })
            })
            .collect();
        while pool.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| 9).await, Err(Refusal::Overloaded));
        release.send(()).unwrap();
        assert!(stuck.await.unwrap().is_ok());
        for (n, one) in waiting.into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), Ok(n));
        }
        assert_eq!(pool.run(|| 9).await, Ok(9));
    }

    #[tokio::test]
    async fn a_panic_gives_its_place_back() {
        let pool = Pool::of(1, 1);
        for _ in 0..3 {
            assert_eq!(pool.run(|| -> u8 { panic!("as a test") }).await, Err(Refusal::Unavailable));
        }
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }
}
