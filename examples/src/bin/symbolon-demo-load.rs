//! The demo's client: an open loop. Requests are sent when they are due, whether or not earlier ones have been answered, and
//! latency counts from the moment a request was due, so that a slow server cannot hide behind a waiting client.
//!
//! Every 10 ms of due time become one JSON line on standard output once all its requests have ended:
//!
//! ```json
//! {"t":1764070000000,"ok":{"payments-a1":6,"payments-b1":4},"injected":{},"failed":[],"latency_us":[812,790]}
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Due time that goes into one line, in milliseconds.
const BUCKET_MS: u64 = 10;
/// A reply later than this after it was due is a failure.
const TOO_LATE: Duration = Duration::from_secs(3);

/// An open loop of GET requests through an Envoy, each reply checked for who answered and as whom.
#[derive(Debug, Parser)]
struct Options {
    /// The Envoy's HTTP listener, ip:port.
    #[arg(long)]
    target: SocketAddr,
    /// The Host of the requests.
    #[arg(long)]
    host: String,
    /// Requests per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// WORKLOAD=SPIFFE_ID: the ID that a reply of this workload must come from; repeat per workload.
    #[arg(long = "expect", value_parser = pair)]
    expect: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, id) = text.split_once('=').ok_or("WORKLOAD=SPIFFE_ID")?;
    Ok((name.to_owned(), id.to_owned()))
}

/// How one request ended.
enum Outcome {
    Answered { workload: String, injected: bool },
    Failed(String),
}

#[derive(Default, Serialize)]
struct Bucket {
    /// Unix milliseconds.
    t: u64,
    ok: BTreeMap<String, u64>,
    injected: BTreeMap<String, u64>,
    failed: Vec<String>,
    latency_us: Vec<u64>,
    #[serde(skip)]
    due: u64,
    #[serde(skip)]
    ended: u64,
    #[serde(skip)]
    closed: bool,
}

struct Caller {
    target: SocketAddr,
    /// Connections that wait for their next request; the last used is used first.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    host: String,
    expect: BTreeMap<String, String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let caller = Arc::new(Caller {
        target: options.target,
        idle: Mutex::default(),
        host: options.host,
        expect: options.expect.into_iter().collect(),
    });
    let (ended, endings) = mpsc::unbounded_channel();
    let printer = tokio::task::spawn_blocking(move || print(endings));
    let mut stop = std::pin::pin!(stopped());
    let (start, started_ms) = (Instant::now(), unix_ms());
    let gap = Duration::from_secs(1) / options.rate;
    for number in 0_u32.. {
        let due = start + gap * number;
        if due > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = &mut stop => break,
            }
        }
        let since = u64::try_from((due - start).as_millis()).unwrap_or(u64::MAX);
        let bucket = (started_ms + since) / BUCKET_MS;
        let _ = ended.send(Event::Due(bucket)); // the printer outlives this loop
        let (caller, ended) = (caller.clone(), ended.clone());
        tokio::spawn(async move {
            let outcome = caller.call(due).await;
            let _ = ended.send(Event::Ended { bucket, outcome, latency: due.elapsed() });
        });
    }
    drop(ended);
    printer.await?
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without the kit's clock")]
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn stopped() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match terminate {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

impl Caller {
    async fn call(&self, due: Instant) -> Outcome {
        match tokio::time::timeout_at(due + TOO_LATE, self.exchange()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(_) => Outcome::Failed("no reply within 3 s".into()),
        }
    }

    async fn exchange(&self) -> Result<Outcome, String> {
        loop {
            let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reused = waiting.is_some();
            let mut connection = match waiting {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let request = Request::get("/pay").header("host", &self.host).body(Empty::new());
            let sent = match connection.ready().await {
                Ok(()) => connection.send_request(request.map_err(|e| describe(&e))?).await,
                Err(error) => Err(error),
            };
            match sent {
                // Closed while it waited, before anything of this request was written: that is what keep-alive means.
                Err(error) if reused && (error.is_canceled() || error.is_closed()) => {}
                Err(error) => return Err(describe(&error)),
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    body.collect().await.map_err(|e| format!("body: {e}"))?;
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    return Ok(self.judge(head.status, &head.headers));
                }
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.target).await.map_err(|e| format!("connect: {e}"))?;
        let _ = stream.set_nodelay(true); // slower, not wrong, without it
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| describe(&e))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (workload, id) = (text("x-demo-workload").to_owned(), text("x-symbolon-upstream-id"));
        let injected = headers.contains_key("x-demo-injected");
        if status != StatusCode::OK && !injected {
            let flags = text("x-envoy-response-flags");
            return Outcome::Failed(format!("status {} from {workload:?} {flags}", status.as_u16()));
        }
        match self.expect.get(&workload) {
            None => Outcome::Failed(format!("answered by a stranger: {workload:?}")),
            Some(want) if want != id => Outcome::Failed(format!("{workload} answered as {id:?}, not {want}")),
            Some(_) => Outcome::Answered { workload, injected },
        }
    }
}

/// The error with its causes: hyper's own words say only that something went wrong.
fn describe(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

enum Event {
    Due(u64),
    Ended { bucket: u64, outcome: Outcome, latency: Duration },
}

/// Prints each bucket once its due time is over and all its requests have ended.
fn print(mut events: mpsc::UnboundedReceiver<Event>) -> anyhow::Result<()> {
    let mut open: BTreeMap<u64, Bucket> = BTreeMap::new();
    let mut out = std::io::stdout().lock();
    while let Some(event) = events.blocking_recv() {
        let touched = match event {
            Event::Due(number) => {
                let bucket =
                    open.entry(number).or_insert_with(|| Bucket { t: number * BUCKET_MS, ..Bucket::default() });
                bucket.due += 1;
                let before: Vec<u64> = open.range(..number).filter(|(_, b)| !b.closed).map(|(n, _)| *n).collect();
                for number in &before {
                    if let Some(bucket) = open.get_mut(number) {
                        bucket.closed = true;
                    }
                }
                before
            }
            Event::Ended { bucket: number, outcome, latency } => {
                if let Some(bucket) = open.get_mut(&number) {
                    bucket.count(outcome, latency);
                }
                vec![number]
            }
        };
        for number in touched {
            if open.get(&number).is_some_and(|bucket| bucket.closed && bucket.ended == bucket.due)
                && let Some(bucket) = open.remove(&number)
            {
                write(&mut out, &bucket)?;
            }
        }
    }
    for bucket in open.values() {
        write(&mut out, bucket)?;
    }
    Ok(())
}

fn write(out: &mut impl Write, bucket: &Bucket) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(bucket)?;
    line.push(b'\n');
    out.write_all(&line).and_then(|()| out.flush()).context("standard output")
}

impl Bucket {
    fn count(&mut self, outcome: Outcome, latency: Duration) {
        self.ended += 1;
        self.latency_us.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        match outcome {
            Outcome::Answered { workload, injected: false } => *self.ok.entry(workload).or_default() += 1,
            Outcome::Answered { workload, injected: true } => *self.injected.entry(workload).or_default() += 1,
            Outcome::Failed(why) => self.failed.push(why),
        }
    }
}
