//! Keys that wait for something outside this process: a few threads of their own talk to it, a bounded queue leads to them, and who
//! asks waits no longer than a deadline. A token that hangs costs these threads, and neither the runtime nor its blocking pool.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Algorithm, KeyError, KeyManager, SigningKey};

/// Questions that wait for a thread. At some milliseconds per signature these are answered before the deadline.
const QUEUE: usize = 256;

/// What one thread talks to.
pub(super) trait Backend: Send + 'static {
    fn perform(&mut self, job: &Job) -> Result<Done, KeyError>;
}

/// A question.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Generate(String),
    Load(String),
    Sign { name: Arc<str>, message: Vec<u8> },
    Remove(String),
    Names,
}

/// Its answer.
#[derive(Debug)]
pub(super) enum Done {
    Key { algorithm: Algorithm, public_key: Vec<u8> },
    Signature(Vec<u8>),
    Removed,
    Names(Vec<String>),
}

struct Ticket {
    job: Job,
    /// Nobody waits for the answer any more.
    given_up: Arc<AtomicBool>,
    answer: SyncSender<Result<Done, KeyError>>,
}

/// The threads, and the queue before them. They end when it is dropped.
#[derive(Clone)]
pub(super) struct Pool {
    kind: &'static str,
    queue: SyncSender<Ticket>,
    deadline: Duration,
}

#[derive(Debug)]
struct PooledKey {
    name: Arc<str>,
    algorithm: Algorithm,
    public_key: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// One thread per backend.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start<B: Backend>(
        kind: &'static str,
        backends: Vec<B>,
        deadline: Duration,
    ) -> Result<Self, KeyError> {
        let (queue, waiting) = sync_channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for backend in backends {
            let waiting = waiting.clone();
            let thread = std::thread::Builder::new().name(format!("{kind} keys"));
            let started = thread.spawn(move || work(backend, &waiting));
            started.map_err(|e| KeyError::Unusable(format!("no thread for it: {e}")))?;
        }
        Ok(Self { kind, queue, deadline })
    }

    fn ask(&self, job: Job) -> Result<Done, KeyError> {
        let (answer, answered) = sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let gone = || KeyError::Unusable("its threads have ended".into());
        match self.queue.try_send(Ticket { job, given_up: given_up.clone(), answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(KeyError::Overloaded),
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        answered.recv_timeout(self.deadline).unwrap_or_else(|error| {
            given_up.store(true, Ordering::Relaxed);
            Err(match error {
                RecvTimeoutError::Timeout => KeyError::Late(self.deadline),
                RecvTimeoutError::Disconnected => gone(),
            })
        })
    }

    fn key(&self, name: &str, done: Done) -> Result<Arc<dyn SigningKey>, KeyError> {
        match done {
            Done::Key { algorithm, public_key } => {
                Ok(Arc::new(PooledKey { name: name.into(), algorithm, public_key, pool: self.clone() }))
            }
            _ => Err(KeyError::Unusable("it gave no key".into())),
        }
    }
}

fn work<B: Backend>(mut backend: B, waiting: &Mutex<Receiver<Ticket>>) {
    loop {
        // Whoever holds the lock waits for the next ticket; the others wait for the lock, which is the same.
        let ticket = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(ticket) = ticket else { return };
        // A signature that nobody waits for any more is not made; what changes the token is, since its answer is looked up later.
        if matches!(ticket.job, Job::Sign { .. }) && ticket.given_up.load(Ordering::Relaxed) {
            continue;
        }
        let done = backend.perform(&ticket.job);
        let _ = ticket.answer.try_send(done); // who asked may have given up meanwhile
    }
}

impl KeyManager for Pool {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn generate(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.key(name, self.ask(Job::Generate(name.to_owned()))?)
    }

    fn load(&self, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.key(name, self.ask(Job::Load(name.to_owned()))?)
    }

    fn remove(&self, name: &str) -> Result<(), KeyError> {
        self.ask(Job::Remove(name.to_owned())).map(|_| ())
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        match self.ask(Job::Names)? {
            Done::Names(names) => Ok(names),
            _ => Err(KeyError::Unusable("it gave no names".into())),
        }
    }
}

impl SigningKey for PooledKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match self.pool.ask(Job::Sign { name: self.name.clone(), message: message.to_vec() })? {
            Done::Signature(signature) => Ok(signature),
            _ => Err(KeyError::Signature),
        }
    }

    fn is_slow(&self) -> bool {
        true
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// A token that answers when it is let, or not at all.
    struct Token {
        gate: Arc<Barrier>,
        throttled: Arc<AtomicBool>,
        signed: Arc<Mutex<u32>>,
    }

    impl Backend for Token {
        fn perform(&mut self, job: &Job) -> Result<Done, KeyError> {
            match job {
                Job::Load(_) => Ok(Done::Key { algorithm: Algorithm::EcdsaP256, public_key: vec![4] }),
                Job::Sign { .. } if self.throttled.load(Ordering::Relaxed) => {
                    Err(KeyError::Token("is throttled".into()))
                }
                Job::Sign { .. } => {
                    self.gate.wait();
                    *self.signed.lock().unwrap() += 1;
                    Ok(Done::Signature(vec![1]))
                }
                _ => Ok(Done::Removed),
            }
        }
    }

    #[test]
    fn fault_040_a_token_that_hangs_costs_a_deadline_and_a_bounded_queue() {
        let (gate, signed) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(0)));
        let throttled = Arc::new(AtomicBool::new(false));
        let token = Token { gate: gate.clone(), throttled: throttled.clone(), signed: signed.clone() };
        let pool = Pool::start("slow", vec![token], Duration::from_millis(50)).unwrap();
        let key = pool.load("x509-1").unwrap();
        assert!(key.is_slow());
        // One thread hangs in the first; the second waits behind it, in vain.
        assert!(matches!(key.sign(b"1"), Err(KeyError::Late(_))));
        assert!(matches!(key.sign(b"2"), Err(KeyError::Late(_))));
        // Whoever comes while the queue is full is told at once.
        let full = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..QUEUE + 8).map(|_| scope.spawn(|| key.sign(b"3"))).collect();
            asking
                .into_iter()
                .map(|one| one.join().unwrap())
                .filter(|one| matches!(one, Err(KeyError::Overloaded)))
                .count()
        });
        assert!(full >= 7, "{full} were refused at once");
        // It answers again. Nothing that was given up is signed but the one that was under way.
        throttled.store(true, Ordering::Relaxed);
        gate.wait();
        let answered = std::iter::repeat_with(|| key.sign(b"4"))
            .find(|one| !matches!(one, Err(KeyError::Late(_) | KeyError::Overloaded)));
        assert!(matches!(answered, Some(Err(KeyError::Token(_)))), "{answered:?}");
        assert_eq!(*signed.lock().unwrap(), 1);
        throttled.store(false, Ordering::Relaxed);
        let signature = std::thread::scope(|scope| {
            let asked = scope.spawn(|| key.sign(b"5"));
            gate.wait();
            asked.join().unwrap()
        });
        assert_eq!(signature.unwrap(), [1]);
    }
}
