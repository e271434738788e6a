//! The socket as a workload calls it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use symbolon_kit::net;
use symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::cli::Failure;

const DEFAULT_SOCKET: &str = "/run/symbolon/agent.sock";
/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 32 << 20;

pub(super) type Client = SpiffeWorkloadApiClient<Channel>;

/// The client of the socket named by the flag, by SPIFFE's variable, or by default; connects when it is first used.
pub(super) fn client(flag: Option<&Path>) -> Result<(Client, PathBuf), Failure> {
    let variable = std::env::var("SPIFFE_ENDPOINT_SOCKET").ok();
    let socket = socket(flag, variable).map_err(|why| Failure::new(Failure::USAGE, why))?;
    Ok((connect(&socket), socket))
}

pub(super) fn connect(socket: &Path) -> Client {
    SpiffeWorkloadApiClient::new(net::unix_channel(socket)).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// By flag, by SPIFFE's variable (E-5: `unix:` and an absolute path, nothing else), or by default.
fn socket(flag: Option<&Path>, variable: Option<String>) -> anyhow::Result<PathBuf> {
    if let Some(path) = flag {
        return Ok(path.to_owned());
    }
    let Some(uri) = variable else { return Ok(DEFAULT_SOCKET.into()) };
    let path = uri.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if path.starts_with('/') && !path.contains(['?', '#']) => Ok(path.into()),
        _ => Err(anyhow!("SPIFFE_ENDPOINT_SOCKET must be unix:///absolute/path, it is {uri:?}")),
    }
}

/// A request as SPIFFE clients make it (SPIFFE_Workload_Endpoint.md §3).
pub(super) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

/// Fails instead of waiting for ever.
pub(super) async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::unavailable(format!("no answer within {TIMEOUT:?}")));
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or_else(late)
}

/// What the agent, or its absence, says.
pub(super) fn describe(status: &Status, socket: &Path) -> String {
    let mut why = format!("{}: {:?}: {}", socket.display(), status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let _ = write!(why, ": {cause}"); // writing to a String cannot fail
        source = cause.source();
    }
    why
}

pub(super) fn failure(status: &Status, socket: &Path) -> Failure {
    let code = if status.code() == Code::Unavailable { Failure::UNREACHABLE } else { Failure::FAILED };
    Failure::new(code, anyhow!(describe(status, socket)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, Ca, view};

    #[test]
    fn e_5_the_socket_comes_from_the_flag_the_variable_or_the_default() {
        let variable = |text: &str| socket(None, Some(text.to_owned())).map_err(drop);
        assert_eq!(socket(Some(Path::new("./s")), Some("unix:/x".into())).unwrap(), Path::new("./s"));
        assert_eq!(socket(None, None).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(variable("unix:///run/a.sock"), Ok("/run/a.sock".into()));
        assert_eq!(variable("unix:/run/a.sock"), Ok("/run/a.sock".into()));
        for wrong in ["unix:run/a.sock", "unix://host/run/a.sock", "/run/a.sock", "tcp:127.0.0.1:1", "unix:///a?b", ""]
        {
            assert_eq!(variable(wrong), Err(()), "{wrong}");
        }
    }

    #[tokio::test]
    async fn nobody_and_nothing_have_codes_of_their_own() {
        let ca = Ca::new("a.example");
        let agent = Agent::start(view(&ca, vec![]));
        let denied = super::super::x509::ask(&mut connect(&agent.socket)).await.unwrap_err();
        assert_eq!(failure(&denied, &agent.socket).code, Failure::FAILED);
        let nobody = Path::new("nobody-listens-here.sock");
        let unreachable = super::super::x509::ask(&mut connect(nobody)).await.unwrap_err();
        assert_eq!(failure(&unreachable, nobody).code, Failure::UNREACHABLE);
    }
}
