//! The cross-verification matrix. `SYMBOLON_BLESS=1` (or `make interop`) writes its table into `docs/interop.md`.

use anyhow::ensure;
use symbolon_tests::interop::cases::{self, Case, Expect};
use symbolon_tests::interop::judges::{self, Verdicts};
use symbolon_tests::interop::{envoy, mutants, table, tokens};
use symbolon_tests::repository;

/// Ours answers each case as it must; the page shows what everybody answers today.
#[tokio::test(flavor = "multi_thread")]
async fn every_mutant_is_refused_by_ours_and_the_page_says_who_refuses_what() -> anyhow::Result<()> {
    let cases: Vec<Case> = [mutants::x509(), tokens::jwt(), mutants::bundles()].concat();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cases.json");
    cases::write(&cases, &file)?;
    let ours = judges::ours(&cases);
    let (go, (python, python_tls)) = (judges::go(&file).await?, judges::python(&file).await?);
    let others = [
        ("Symbolon", &ours),
        ("go-spiffe 2.8.1", &go),
        ("py-spiffe 0.3.2", &python),
        ("spiffe-tls 0.4.0", &python_tls),
        ("crate `spiffe` 0.19.0", &judges::crate_spiffe(&cases)),
        ("OpenSSL", &judges::openssl(&cases, folder.path()).await?),
        ("Envoy 1.40.0", &envoy::judge(&cases, folder.path()).await?),
    ];
    let table = table::table(&cases, &others);
    println!("{table}");
    let wrong: Vec<_> = cases.iter().filter_map(|case| differs(case, &ours)).collect();
    ensure!(wrong.is_empty(), "ours:\n{}", wrong.join("\n"));
    // Whatever is right must be taken by everybody, or nobody could use what we mint.
    for (name, verdicts) in &others[1..] {
        let chains_and_tokens = cases.iter().filter(|case| case.expect == Expect::Accept && case.kind() != "bundle");
        let wrong: Vec<_> = chains_and_tokens.filter_map(|case| differs(case, verdicts)).collect();
        ensure!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    }
    let path = repository().join("docs/interop.md");
    let page = std::fs::read_to_string(&path)?;
    let wanted = table::in_page(&page, &table)?;
    if std::env::var_os("SYMBOLON_BLESS").is_some() {
        std::fs::write(&path, &wanted)?;
    }
    ensure!(page == wanted || std::env::var_os("SYMBOLON_BLESS").is_some(), "docs/interop.md is stale: make interop");
    Ok(())
}

fn differs(case: &Case, verdicts: &Verdicts) -> Option<String> {
    let verdict = verdicts.get(&case.name)?;
    let why = verdict.as_ref().err().map_or("", String::as_str);
    (verdict.is_ok() != (case.expect == Expect::Accept)).then(|| format!("{}: {verdict:?} {why}", case.name))
}
