//! `symbolon-sidecar api`: what a workload here would get, by the socket that it would use.

mod client;
mod folder;
mod hook;
mod jwt;
mod validate;
mod watch;
mod x509;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use symbolon_kit::clock::Clock;

use super::{Failure, Output, print};
use client::{client, failure, within};
use hook::Hook;

#[derive(Debug, Subcommand)]
pub(super) enum Api {
    /// Fetch once what the calling process is entitled to.
    Fetch(FetchArgs),
    /// Keep files current, and tell a program when they change.
    Watch(WatchArgs),
    /// Ask whether a workload here would trust an SVID.
    Validate(ValidateArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  symbolon-sidecar api fetch
  symbolon-sidecar api fetch x509 --socket ./agent.sock -o json
  sudo -u payments symbolon-sidecar api fetch x509 --write /tmp/svid
  curl -H \"Authorization: Bearer $(symbolon-sidecar api fetch jwt --audience ledger -o token)\" https://ledger.example/

With --write: svid.N.pem, svid.N.key and bundle.N.pem per identity, federated_bundle.DOMAIN.pem per federated trust domain; of jwt,
jwt_svid.N.token per identity. Files of a former run that are no longer given are removed.
Exit code 1: this process has no identity here; 69: nobody listens on the socket, or the SVID is not here yet.")]
pub(super) struct FetchArgs {
    #[command(flatten)]
    what: Whose,
    /// Write certificates, keys, tokens (mode 0600) and bundles into this folder.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  symbolon-sidecar api watch
  symbolon-sidecar api watch x509 --write /run/web/svid --signal HUP --pid-file /run/nginx.pid
  symbolon-sidecar api watch x509 --write /run/db/svid --exec 'pg_ctl reload -D /var/lib/postgres'
  symbolon-sidecar api watch jwt --audience ledger --write /run/web/token

Files are as of `api fetch --write`, each replaced atomically and readable by its owner only; of jwt also jwt_bundle.DOMAIN.json. The
signal or command comes after all files of a change are there; the command finds their folder in SYMBOLON_DIR. While the agent is
away, or has nothing for this process, the files stay as they are, and the reason is written to standard error. It runs until it is
stopped.")]
pub(super) struct WatchArgs {
    #[command(flatten)]
    what: Whose,
    /// Write certificates, keys, tokens (mode 0600) and bundles into this folder.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Send this signal when files have changed, e.g. HUP.
    #[arg(long, value_name = "NAME", requires = "write")]
    signal: Option<String>,
    /// Holds the number of the process that the signal goes to; read each time.
    #[arg(long, value_name = "FILE", requires = "signal")]
    pid_file: Option<PathBuf>,
    /// Run this command by /bin/sh when files have changed.
    #[arg(long, value_name = "COMMAND", requires = "write", conflicts_with = "signal")]
    exec: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  symbolon-sidecar api validate jwt --audience ledger < token
  symbolon-sidecar api validate jwt --audience ledger --svid eyJhbGciOi... -o json
  symbolon-sidecar api validate x509 --svid peer.pem

A token on the command line can be seen by other users of the machine: prefer standard input.
Exit code 0: valid; 1: not valid, with the reason; 65: not what it should be; 69: nobody listens on the socket.")]
pub(super) struct ValidateArgs {
    /// What to validate.
    #[arg(value_enum)]
    what: What,
    /// Who the token must be for; needed for jwt.
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The token itself, or the file of an X.509 chain in PEM; `-`: standard input.
    #[arg(long, value_name = "SVID", default_value = "-")]
    svid: String,
    /// The agent's socket [default: $SPIFFE_ENDPOINT_SOCKET, else /run/symbolon/agent.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// What fetch and watch ask for, and how they print it.
#[derive(Debug, Args)]
struct Whose {
    /// What to ask for.
    #[arg(value_enum, default_value = "x509")]
    what: What,
    /// Who the token is for; needed for jwt, may be given several times.
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// The token of this identity only [default: of all that this process has]
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// The agent's socket [default: $SPIFFE_ENDPOINT_SOCKET, else /run/symbolon/agent.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print it; token: of jwt, the first token and nothing else.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// X.509-SVIDs, their keys, and trust bundles.
    X509,
    /// JWT-SVIDs for an audience.
    Jwt,
}

impl Whose {
    fn check(&self) -> Result<(), Failure> {
        let wrong = match self.what {
            What::Jwt if self.audience.is_empty() => "jwt needs --audience: who the token is for",
            What::X509 if !self.audience.is_empty() => "--audience is for jwt",
            What::X509 if self.spiffe_id.is_some() => "--spiffe-id is for jwt",
            What::X509 if self.output == Output::Token => "-o token is for jwt",
            _ => return Ok(()),
        };
        Err(Failure::new(Failure::USAGE, anyhow!(wrong)))
    }
}

pub(super) fn run(api: Api) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::new(Failure::FAILED, why))?;
    match api {
        Api::Fetch(args) => runtime.block_on(fetch(args)),
        Api::Watch(args) => runtime.block_on(watch(args)),
        Api::Validate(args) => runtime.block_on(validate(args)),
    }
}

async fn fetch(args: FetchArgs) -> Result<(), Failure> {
    args.what.check()?;
    let failed = |why: anyhow::Error| Failure::new(Failure::FAILED, why);
    let (mut client, socket) = client(args.what.socket.as_deref())?;
    let output = args.what.output;
    let (files, is_ours, text): (_, fn(&str) -> bool, _) = match args.what.what {
        What::X509 => {
            let answer = within(x509::ask(&mut client)).await.map_err(|status| failure(&status, &socket))?;
            let fetched = x509::read(answer).map_err(failed)?;
            let text = if output == Output::Json { x509::render_json(&fetched) } else { x509::table(&fetched) };
            (x509::files(&fetched).map_err(failed)?, x509::is_ours, text)
        }
        What::Jwt => {
            let asked = jwt::ask(&mut client, &args.what.audience, args.what.spiffe_id.as_deref());
            let answer = within(asked).await.map_err(|status| failure(&status, &socket))?;
            let fetched = jwt::read(answer).map_err(failed)?;
            let text = match output {
                Output::Table => jwt::table(&fetched),
                Output::Json => jwt::render_json(&fetched),
                Output::Token => jwt::token(&fetched),
            };
            (jwt::token_files(&fetched), jwt::is_ours, text)
        }
    };
    if let Some((folder, _)) = watch::folder(args.write.as_deref(), is_ours).map_err(failed)? {
        folder.replace(&files).map_err(|why| failed(why.into()))?;
    }
    print(&text)
}

async fn watch(args: WatchArgs) -> Result<(), Failure> {
    args.what.check()?;
    let hook = Hook::parse(args.signal.as_deref(), args.pid_file.as_deref(), args.exec.as_deref())
        .map_err(|why| Failure::new(Failure::USAGE, why))?;
    let (client, socket) = client(args.what.socket.as_deref())?;
    let is_ours = if args.what.what == What::X509 { x509::is_ours } else { jwt::is_ours };
    let folder = watch::folder(args.write.as_deref(), is_ours).map_err(|why| Failure::new(Failure::FAILED, why))?;
    let output = args.what.output;
    let watch = watch::Watch { client, socket, output, folder, hook, clock: Clock::system() };
    let ended = match args.what.what {
        What::X509 => watch.x509().await,
        What::Jwt => watch.jwt(args.what.audience, args.what.spiffe_id).await,
    };
    ended.map_err(|why| Failure::new(Failure::FAILED, why))
}

async fn validate(args: ValidateArgs) -> Result<(), Failure> {
    let (mut client, socket) = client(args.socket.as_deref())?;
    let content = |inline| validate::read(&args.svid, inline).map_err(|why| Failure::new(Failure::DATA, why));
    let valid = match (args.what, &args.audience) {
        (What::Jwt, None) => {
            return Err(Failure::new(Failure::USAGE, anyhow!("jwt needs --audience: who the token must be for")));
        }
        (What::Jwt, Some(audience)) => validate::jwt(&mut client, &socket, &content(true)?, audience).await?,
        (What::X509, _) => validate::x509(&mut client, &socket, &content(false)?, Clock::system().now()).await?,
    };
    print(&validate::render(&valid, args.output == Output::Json))
}
