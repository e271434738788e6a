//! `symbolon identity apply`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use symbolon_kit::config::{At, items};
use symbolon_kit::text::printable;
use symbolon_proto::ITEM;
use symbolon_proto::admin as wire;
use tonic::Status;

use super::view::Identity;
use crate::cli::client::Client;
use crate::cli::failure::{BAD_INPUT, FAILED, Failure};
use crate::cli::output::{self, Output};

/// Make the registered identities those of a file, in one step: all of it, or nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Each YAML document of the file is an identity or a list of them, in the form that `identity list -o yaml` prints;
spiffeId, selectors, and one of node, parent and nodeAlias are needed. An identity of the file is the registered one
with its entryId, else the one with the same SPIFFE ID, node or parent, and selectors, else a new one. What the file
does not name stays, unless --prune is given.

Exit status: 0 done, 1 refused, or with --exit-code: there are differences; 65 the file is wrong.

Examples:
  symbolon identity apply -f identities.yaml --dry-run
  symbolon identity apply -f identities.yaml --prune
  symbolon identity apply -f shop.yaml -f db.yaml --dry-run --prune --exit-code
  generate | symbolon identity apply -f -"
)]
pub struct Apply {
    /// A file of identities, YAML or JSON; - is standard input
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Delete the identities that the file does not name
    #[arg(long)]
    prune: bool,
    /// End with 1 if anything is different
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied {
    dry_run: bool,
    created: Vec<Identity>,
    changed: Vec<Changed>,
    deleted: Vec<Identity>,
    unchanged: u32,
}

#[derive(Serialize)]
struct Changed {
    before: Identity,
    after: Identity,
}

pub(super) async fn run(client: &Client, options: Apply) -> Result<(), Failure> {
    let (mut identities, mut places) = (Vec::new(), Vec::new());
    for file in &options.files {
        let path = if file.as_os_str() == "-" { Path::new("/dev/stdin") } else { file };
        let read = items::<Identity>(path).map_err(|error| Failure::new(BAD_INPUT, error.to_string()))?;
        for At { value, line } in read {
            zero_is_no_lifetime(&value).map_err(|why| bad(file, line, why))?;
            identities.push(value.into());
            places.push((file, line));
        }
    }
    let asked = wire::ApplyIdentitiesRequest { identities, dry_run: options.dry_run, prune: options.prune };
    let applied = client.try_call(async |mut admin| admin.apply_identities(asked).await).await;
    let applied = applied.map_err(|status| match item(&status).and_then(|index| places.get(index)) {
        Some((file, line)) => bad(file, *line, status.message()),
        None => client.failed(&status),
    })?;
    let applied = Applied::new(applied, options.dry_run);
    output::print(options.output.format, &applied, shown)?;
    let differs = !(applied.created.is_empty() && applied.changed.is_empty() && applied.deleted.is_empty());
    if options.exit_code && differs { Err(Failure::silent(FAILED)) } else { Ok(()) }
}

fn bad(file: &Path, line: usize, why: &str) -> Failure {
    Failure::new(BAD_INPUT, format!("{}:{line}: {}", file.display(), printable(why)))
}

/// Messages carry 0 for the default: what was meant to be short would last long.
fn zero_is_no_lifetime(identity: &Identity) -> Result<(), &'static str> {
    let zero = [identity.ttl_seconds, identity.jwt_ttl_seconds].contains(&Some(0));
    if zero { Err("a lifetime of 0 seconds: leave it out for the default") } else { Ok(()) }
}

/// The identity of the request that a refusal is about.
fn item(status: &Status) -> Option<usize> {
    status.metadata().get(ITEM)?.to_str().ok()?.parse().ok()
}

impl Applied {
    fn new(applied: wire::ApplyIdentitiesResponse, dry_run: bool) -> Self {
        let all = |list: Vec<wire::Identity>| list.into_iter().map(Identity::from).collect();
        let changed = applied.changed.into_iter().map(|change| Changed {
            before: Identity::from(change.before.unwrap_or_default()),
            after: Identity::from(change.after.unwrap_or_default()),
        });
        Self {
            dry_run,
            changed: changed.collect(),
            created: all(applied.created),
            deleted: all(applied.deleted),
            unchanged: applied.unchanged,
        }
    }
}

fn shown(applied: &Applied) -> String {
    let line = |sign: char, one: &Identity| {
        format!("{sign} {}   {}   {}", one.spiffe_id, one.held_by(), output::joined(&one.selectors))
    };
    let mut lines: Vec<String> = applied.created.iter().map(|one| line('+', one)).collect();
    for change in &applied.changed {
        lines.push(line('~', &change.after));
        lines.extend(differences(&change.before, &change.after));
    }
    lines.extend(applied.deleted.iter().map(|one| line('-', one)));
    let mut text: String = lines.iter().map(|line| printable(line) + "\n").collect();
    let (created, changed, deleted) = (applied.created.len(), applied.changed.len(), applied.deleted.len());
    text += &format!("{created} created, {changed} changed, {deleted} deleted, {} unchanged", applied.unchanged);
    text + if applied.dry_run { " (dry run: nothing was done)\n" } else { "\n" }
}

/// The fields that differ, each on its line.
fn differences(before: &Identity, after: &Identity) -> Vec<String> {
    let fields = |identity: &Identity| match serde_json::to_value(identity) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&serde_json::Value>| value.map_or_else(|| "unset".to_owned(), ToString::to_string);
    let differ = names.into_iter().filter(|name| *name != "revision" && before.get(*name) != after.get(*name));
    differ.map(|name| format!("    {name}: {} → {}", shown(before.get(name)), shown(after.get(name)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Identity>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identities.yaml");
        std::fs::write(&path, text).unwrap();
        let read = items::<Identity>(&path).map_err(|e| e.to_string())?;
        Ok(read.into_iter().map(|one| one.value).collect())
    }

    fn whole() -> Identity {
        let said = super::super::view::FederatesWith {
            trust_domains: vec!["b.example".into()],
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            all: true,
            except: vec!["c.example".into()],
        };
        Identity {
            entry_id: "0123".into(),
            spiffe_id: "spiffe://a.example/shop".into(),
            parent: "spiffe://a.example/nodes/web".into(),
            selectors: vec!["unix:uid:1000".into()],
            ttl_seconds: Some(90),
            jwt_ttl_seconds: Some(60),
            dns_names: vec!["no".into()],
            hint: "1e3".into(),
            federates_with: Some(said),
            expires_at: Some(1_800_000_000),
            revision: 7,
            ..Identity::default()
        }
    }

    #[test]
    fn what_a_listing_prints_can_be_applied() {
        let plain = Identity { spiffe_id: "spiffe://a.example/x".into(), node: "n1".into(), ..Identity::default() };
        let nobody = Identity { federates_with: Some(Default::default()), ..plain.clone() };
        let all = vec![whole(), plain, nobody];
        assert_eq!(read(&serde_saphyr::to_string(&all).unwrap()).unwrap(), all);
        assert_eq!(read(&serde_json::to_string_pretty(&all).unwrap()).unwrap(), all);
    }

    /// Bad input 140: left out is everybody, empty is nobody, and null is neither.
    #[test]
    fn bad_140_federation_left_out_empty_or_null() {
        let of = |more: &str| read(&format!("spiffeId: x\nnode: n\nselectors: [y]\n{more}"));
        assert_eq!(of("").unwrap()[0].federates_with, None);
        assert_eq!(of("federatesWith: {}\n").unwrap()[0].federates_with, Some(Default::default()));
        assert!(of("federatesWith: null\n").is_err());
        assert!(of("federatesWith:\n").is_err());
    }

    #[test]
    fn bad_019_and_132_lifetimes_and_moments_of_a_file() {
        let of = |more: &str| read(&format!("spiffeId: x\nnode: n\nselectors: [y]\n{more}"));
        for wrong in
            ["ttlSeconds: -1", "ttlSeconds: 1.5", "ttlSeconds: 3153600000000", "ttlSeconds: 1e3", "expiresAt: soon"]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert_eq!(of("expiresAt: 2027-01-15T08:00:00Z").unwrap()[0].expires_at, Some(1_800_000_000));
        assert!(zero_is_no_lifetime(&of("ttlSeconds: 0").unwrap()[0]).is_err());
    }

    #[test]
    fn a_difference_says_which_fields() {
        let after = Identity { ttl_seconds: None, jwt_ttl_seconds: None, revision: 9, ..whole() };
        assert_eq!(differences(&whole(), &after), ["    jwtTtlSeconds: 60 → unset", "    ttlSeconds: 90 → null"]);
        let applied = Applied {
            dry_run: true,
            created: vec![],
            changed: vec![Changed { before: whole(), after }],
            deleted: vec![],
            unchanged: 2,
        };
        assert_eq!(
            shown(&applied),
            "~ spiffe://a.example/shop   spiffe://a.example/nodes/web   unix:uid:1000\n    jwtTtlSeconds: 60 → unset\n    \
             ttlSeconds: 90 → null\n0 created, 1 changed, 0 deleted, 2 unchanged (dry run: nothing was done)\n"
        );
    }
}
