//! `symbolon audit`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_kit::octets;
use symbolon_kit::text::printable;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::{BAD_INPUT, FAILED, Failure};
use super::output::{self, Output};
use crate::identity::audit::{chain, folder, stored_head};
use crate::store;

#[derive(Debug, Subcommand)]
pub enum Command {
    Tail(Tail),
    Verify(Verify),
}

/// Show the newest records of the audit log, one JSON object per line, as they are on disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon audit tail                        the last ten records
  symbolon audit tail -n 1000 | jq 'select(.kind == \"refused\")'
  symbolon audit tail -f                     and each that follows, until Ctrl-C

docs/audit.md lists the kinds of records.")]
pub struct Tail {
    /// How many of the newest records
    #[arg(short = 'n', long, default_value_t = 10, value_name = "COUNT")]
    lines: u32,
    /// Go on with what follows
    #[arg(short, long)]
    follow: bool,
}

/// Check that the audit log is as it was written: no record changed, removed, put in or exchanged, and none missing at its end.
///
/// A running control plane knows where its log ends. Without one, --dir reads the files; what was cut off at the end is missed then
/// if the store lies beside them, or if --head names a hash that an earlier check printed.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 intact, 1 not.

Examples:
  symbolon audit verify
  symbolon audit verify -o json
  symbolon audit verify --dir /var/lib/symbolon/audit
  symbolon audit verify --dir /backup/audit --head 4f1e…")]
pub struct Verify {
    /// Read the files in this folder, without a control plane
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A hash that an earlier check printed: the log must still hold it
    #[arg(long, value_name = "HASH", requires = "dir")]
    head: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    intact: bool,
    records: u64,
    head: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::Tail(options) => tail(client, &options).await,
        Command::Verify(options) => verify(client, options).await,
    }
}

async fn tail(client: &Client, options: &Tail) -> Result<(), Failure> {
    let asked = wire::TailAuditRequest { lines: options.lines, follow: options.follow };
    let mut records = client.call(async |mut admin| admin.tail_audit(asked).await).await?;
    while let Some(record) = records.message().await.map_err(|status| client.failed(&status))? {
        output::write(format!("{}\n", printable(&record.json)).as_bytes())?;
    }
    Ok(())
}

async fn verify(client: &Client, options: Verify) -> Result<(), Failure> {
    let verified = match &options.dir {
        Some(dir) => offline(dir, options.head.as_deref()).await?,
        None => {
            let answer = client.call(async |mut admin| admin.verify_audit(wire::VerifyAuditRequest {}).await).await?;
            let wire::VerifyAuditResponse { intact, records, head, problem } = answer;
            Verified { intact, records, head, problem, note: String::new() }
        }
    };
    output::print(options.output.format, &verified, shown)?;
    if verified.intact { Ok(()) } else { Err(Failure::silent(FAILED)) }
}

fn shown(verified: &Verified) -> String {
    let Verified { intact, records, head, problem, note } = verified;
    let note = if note.is_empty() { String::new() } else { format!("Note:    {note}\n") };
    if *intact {
        format!("Intact:  yes\nRecords: {records}\nHead:    {head}\n{note}")
    } else {
        format!("Intact:  NO, {problem}\nRecords: {records} are as they were written\nHead:    {head}\n{note}")
    }
}

async fn offline(dir: &Path, head: Option<&str>) -> Result<Verified, Failure> {
    let unreadable =
        |error: &dyn std::fmt::Display| Failure::new(BAD_INPUT, format!("{} cannot be read: {error}", dir.display()));
    if folder::entries(dir).map_err(|error| unreadable(&error))?.is_empty() {
        return Err(Failure::new(BAD_INPUT, format!("{} has no file of an audit log", dir.display())));
    }
    let (mut known, mut note) = (None, String::new());
    if let Some(head) = head {
        let hash = chain::unhex(head.trim().as_bytes());
        let hash = hash.ok_or_else(|| Failure::new(BAD_INPUT, "--head takes the 64 digits that a check printed"))?;
        known = folder::find(dir, &hash).map_err(|error| unreadable(&error))?;
        if known.is_none() {
            let verified = folder::verify(dir, None, None).map_err(|error| unreadable(&error))?;
            let problem = format!("no record has the hash {head}: the log was cut or rewritten since");
            return Ok(Verified {
                intact: false,
                records: verified.head.count,
                head: octets::hex(&verified.head.hash),
                problem,
                note,
            });
        }
    } else {
        match beside(dir).await {
            Ok(head) => known = head,
            Err(why) => note = why,
        }
    }
    let verified = folder::verify(dir, known.as_ref(), None).map_err(|error| unreadable(&error))?;
    if known.is_none() && note.is_empty() {
        "the end was not checked: no store lies beside the log, and no --head was given".clone_into(&mut note);
    }
    Ok(Verified {
        intact: verified.problem.is_none(),
        records: verified.head.count,
        head: octets::hex(&verified.head.hash),
        problem: verified.problem.map(|problem| problem.to_string()).unwrap_or_default(),
        note,
    })
}

/// The head that the store beside the folder knows, if there is one.
async fn beside(dir: &Path) -> Result<Option<chain::Head>, String> {
    let path = dir.join("../store.redb");
    if !path.exists() {
        return Ok(None);
    }
    let cannot = |error: store::Error| format!("the end was not checked: {error}");
    let store = store::redb::open(&path).map_err(cannot)?;
    stored_head(&store).await.map_err(cannot)
}
