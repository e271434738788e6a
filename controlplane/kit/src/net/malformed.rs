//! Calls that the gRPC library refuses before a handler sees them: a message that is no message of ours, or longer than the limit. It
//! answers them with a typed status; here they are counted and said.

use axum::middleware::map_response;
use axum::response::Response;
use tonic::service::Routes;
use tracing::warn;

use crate::metrics::Counter;
use crate::seldom::Seldom;

/// `routes`, with every such refusal counted in `refused` by `reason`: `malformed`, `too_long`. Streams say theirs themselves: there
/// the status comes after the headers.
pub fn count_malformed(routes: Routes, port: &'static str, refused: Counter) -> Routes {
    let said = Seldom::default();
    let watch = map_response(move |response: Response| {
        if let Some(reason) = reason(&response) {
            refused.inc(&[("reason", reason)]);
            if let Some(left_out) = said.ask(reason) {
                warn!(port, reason, left_out, "a call was refused: its message cannot be read");
            }
        }
        std::future::ready(response)
    });
    Routes::from(routes.into_axum_router().layer(watch))
}

/// The library's own words tell its refusals from a handler's of the same code.
fn reason(response: &Response) -> Option<&'static str> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let message = text("grpc-message")?;
    match text("grpc-status")? {
        "11" if message.contains("message%20length%20too%20large") => Some("too_long"),
        "13" if message.contains("failed%20to%20decode") || message.contains("decoding") => Some("malformed"),
        _ => None,
    }
}
