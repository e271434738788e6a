//! `symbolon-sidecar api watch`: files that are always current, for programs that read PEM files or tokens and know no Workload API.
//! It holds the stream, comes back when it breaks, and keeps the files meanwhile: an error withdraws nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use symbolon_kit::backoff::Backoff;
use symbolon_kit::clock::Clock;
use symbolon_proto::workload::{JwtBundlesRequest, X509svidRequest};
use tonic::Status;

use super::client::{Client, describe, with_header, within};
use super::folder::{Files, Folder};
use super::hook::Hook;
use super::{jwt, x509};
use crate::cli::{Output, print};

/// Between attempts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Between renewals of a token, at least.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// What is done with each answer.
pub(super) struct Watch {
    pub client: Client,
    pub socket: PathBuf,
    pub output: Output,
    pub folder: Option<(Folder, PathBuf)>,
    pub hook: Hook,
    pub clock: Clock,
}

impl Watch {
    /// Follows the stream of X.509-SVIDs; ends only with the process.
    ///
    /// # Errors
    /// If nobody reads what is printed.
    pub(super) async fn x509(mut self) -> anyhow::Result<()> {
        let mut backoff = backoff();
        loop {
            let ended = match within(self.client.fetch_x509svid(with_header(X509svidRequest {}))).await {
                Err(status) => status,
                Ok(answer) => {
                    let mut stream = answer.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(answer)) => {
                                backoff.reset();
                                match x509::read(answer) {
                                    Ok(fetched) => self.take_x509(&fetched).await?,
                                    Err(why) => self.note(&format!("an answer of the agent is not used: {why:#}")),
                                }
                            }
                            Ok(None) => break Status::unavailable("the agent ended the stream"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            self.pause(&ended, &mut backoff).await;
        }
    }

    async fn take_x509(&self, fetched: &x509::Fetched) -> anyhow::Result<()> {
        match self.output {
            Output::Json => print(&x509::render_json(fetched)).map_err(|failure| failure.why)?,
            Output::Table | Output::Token => print(&x509::table(fetched)).map_err(|failure| failure.why)?,
        }
        match x509::files(fetched) {
            Ok(files) => self.write(&files).await,
            Err(why) => self.note(&format!("an answer of the agent is not written: {why:#}")),
        }
        Ok(())
    }

    /// Keeps tokens for `audience`, each renewed at half its life, and the bundles that verify others'; ends only with the process.
    ///
    /// # Errors
    /// If nobody reads what is printed.
    pub(super) async fn jwt(mut self, audience: Vec<String>, id: Option<String>) -> anyhow::Result<()> {
        let mut backoff = backoff();
        loop {
            let tokens = within(jwt::ask(&mut self.client, &audience, id.as_deref())).await;
            let bundles = within(first_bundles(&mut self.client)).await;
            let ended = match (tokens, bundles) {
                (Err(status), _) | (_, Err(status)) => status,
                (Ok(svids), Ok(bundles)) => match self.take_jwt(svids, &bundles).await? {
                    Some(wait) => {
                        backoff.reset();
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    None => Status::internal("the agent's answer is not used"),
                },
            };
            self.pause(&ended, &mut backoff).await;
        }
    }

    /// Until when to wait; nothing if the answer is of no use.
    async fn take_jwt(
        &self,
        svids: Vec<symbolon_proto::workload::Jwtsvid>,
        bundles: &std::collections::BTreeMap<String, bytes::Bytes>,
    ) -> anyhow::Result<Option<Duration>> {
        let read = jwt::read(svids).and_then(|fetched| Ok((jwt::bundle_files(bundles)?, fetched)));
        let (mut files, fetched) = match read {
            Ok(read) => read,
            Err(why) => {
                self.note(&format!("an answer of the agent is not used: {why:#}"));
                return Ok(None);
            }
        };
        print(&match self.output {
            Output::Json => jwt::render_json(&fetched),
            Output::Table => jwt::table(&fetched),
            Output::Token => jwt::token(&fetched),
        })
        .map_err(|failure| failure.why)?;
        files.extend(jwt::token_files(&fetched));
        self.write(&files).await;
        let now = self.clock.now();
        Ok(fetched.iter().map(|one| until_half(one.issued_at, one.expires_at, now)).min())
    }

    async fn write(&self, files: &Files) {
        let Some((folder, path)) = &self.folder else { return };
        match folder.replace(files) {
            Ok(false) => {}
            Ok(true) => {
                if let Err(why) = self.hook.run(path).await {
                    self.note(&format!("the files are new, and nobody was told: {why:#}"));
                }
            }
            Err(why) => self.note(&format!("not all files could be written: {why}")),
        }
    }

    async fn pause(&self, why: &Status, backoff: &mut Backoff) {
        self.note(&format!("{}; what is written stays", describe(why, &self.socket)));
        tokio::time::sleep(backoff.next_wait()).await;
    }

    fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "symbolon-sidecar: {text}"); // nowhere else to say it
    }
}

async fn first_bundles(client: &mut Client) -> Result<std::collections::BTreeMap<String, bytes::Bytes>, Status> {
    let mut stream = client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await?.into_inner();
    let answer = stream.message().await?.ok_or_else(|| Status::unavailable("the agent ended the stream"))?;
    Ok(answer.bundles)
}

fn backoff() -> Backoff {
    Backoff::new(FIRST_WAIT, LONGEST_WAIT, rand::random())
}

/// Until half of a token's life has passed.
fn until_half(issued_at: Option<SystemTime>, expires_at: SystemTime, now: SystemTime) -> Duration {
    let from = issued_at.unwrap_or(now);
    let half = from + expires_at.duration_since(from).unwrap_or_default() / 2;
    // A little past it, so that the agent finds its own copy due.
    (half.duration_since(now).unwrap_or_default() + Duration::from_millis(100)).max(SHORTEST_LIFE)
}

/// Opens the folder that `--write` names.
///
/// # Errors
/// If it cannot be used.
pub(super) fn folder(path: Option<&Path>, is_ours: fn(&str) -> bool) -> anyhow::Result<Option<(Folder, PathBuf)>> {
    let open = |path: &Path| Ok((Folder::open(path, is_ours).context("--write")?, path.to_owned()));
    path.map(open).transpose()
}

#[cfg(test)]
mod tests;
