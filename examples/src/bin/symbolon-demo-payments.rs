//! The demo's payment service: answers every request with its own name, and, when it is told to, fails a share of them.
//!
//! ```text
//! symbolon-demo-payments --listen 127.0.0.1:8000 --name payments-b1 --control 127.0.0.1:8001
//! curl -X PUT 'http://127.0.0.1:8001/errors/0.3'    # 30 % of the replies are 500, marked x-demo-injected
//! curl -X PUT 'http://127.0.0.1:8001/healthy/false' # /healthz answers 503, payments go on
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Share of failing replies is kept in 1/10,000.
const WHOLE: f64 = 10_000.0;

/// A payment service for the demo: says who it is, fails when told to.
#[derive(Debug, Parser)]
struct Options {
    /// Where it serves, ip:port.
    #[arg(long)]
    listen: SocketAddr,
    /// What it says of itself in the header x-demo-workload.
    #[arg(long)]
    name: String,
    /// Where it takes orders (`PUT /errors/<share>`, `PUT /healthy/<bool>`), ip:port.
    #[arg(long)]
    control: SocketAddr,
}

struct Service {
    name: String,
    failing: AtomicU32,
    healthy: AtomicBool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let service = Arc::new(Service { name: options.name, failing: AtomicU32::new(0), healthy: AtomicBool::new(true) });
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("bind {}", options.listen))?;
    let control = TcpListener::bind(options.control).await.with_context(|| format!("bind {}", options.control))?;
    let orders = service.clone();
    tokio::spawn(accept(control, move |request| orders.order(&request)));
    accept(listener, move |request| service.pay(&request)).await
}

/// Serves HTTP/1.1 connections for ever.
async fn accept<F>(listener: TcpListener, answer: F) -> anyhow::Result<()>
where
    F: Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let serve = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(request))));
            // A client that goes away in the middle is its own affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

impl Service {
    fn pay(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/healthz" {
            return match self.healthy.load(Ordering::Relaxed) {
                true => reply(StatusCode::OK, "ok\n".into()),
                false => reply(StatusCode::SERVICE_UNAVAILABLE, "not well\n".into()),
            };
        }
        let fails = rand::random_range(0.0..WHOLE) < f64::from(self.failing.load(Ordering::Relaxed));
        let (status, words) = if fails {
            (StatusCode::INTERNAL_SERVER_ERROR, "the payment provider is down (injected)\n".to_owned())
        } else {
            (StatusCode::OK, format!("paid by {}\n", self.name))
        };
        let mut response = reply(status, words);
        let name = self.name.parse().unwrap_or(http::HeaderValue::from_static("unnamed"));
        response.headers_mut().insert("x-demo-workload", name);
        if fails {
            response.headers_mut().insert("x-demo-injected", http::HeaderValue::from_static("1"));
        }
        response
    }

    fn order(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let share = path.strip_prefix("/errors/").and_then(|text| text.parse::<f64>().ok());
        let healthy = path.strip_prefix("/healthy/").and_then(|text| text.parse::<bool>().ok());
        match (request.method(), share, healthy) {
            (&Method::PUT, Some(share), _) if (0.0..=1.0).contains(&share) => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000")]
                self.failing.store((share * WHOLE) as u32, Ordering::Relaxed);
                reply(StatusCode::OK, format!("failing {share} of the requests\n"))
            }
            (&Method::PUT, _, Some(healthy)) => {
                self.healthy.store(healthy, Ordering::Relaxed);
                reply(StatusCode::OK, format!("healthy: {healthy}\n"))
            }
            _ => reply(
                StatusCode::BAD_REQUEST,
                "PUT /errors/<share from 0 to 1> or PUT /healthy/<true or false>\n".into(),
            ),
        }
    }
}

fn reply(status: StatusCode, words: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    response
}
