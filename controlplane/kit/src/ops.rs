//! `/livez`, `/readyz`, `/metrics` over plain HTTP.

use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// Serves until drained. `/readyz` answers 503 with the pending names while something is awaited or the drain has begun.
pub async fn serve(_listener: TcpListener, _readiness: Readiness, _metrics: Metrics, _drain: Drain) {
    todo!()
}
