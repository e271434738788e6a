//! `make bench`: measures, prints the table, and writes `target/bench/summary.json`. Fails if a target is missed.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use symbolon_tests::{bench, repository};

fn main() -> anyhow::Result<ExitCode> {
    // Something may have installed one before: then it is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bare"] => {
            bench::issuance::print_bare(&mut std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        ["serve", file] => {
            runtime(1)?.block_on(bench::issuance::serve(Path::new(file)))?;
            Ok(ExitCode::SUCCESS)
        }
        only => measure(only),
    }
}

fn measure(only: &[&str]) -> anyhow::Result<ExitCode> {
    let cores = std::thread::available_parallelism()?.get();
    anyhow::ensure!(cores >= 2, "one core for the server and one for who asks are needed");
    // The first core is the server's alone; threads that are started from here on inherit the rest.
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-p", "-c", &format!("1-{}", cores - 1), &own]).output();
    anyhow::ensure!(moved.context("taskset of util-linux is needed")?.status.success(), "taskset failed");
    let wanted = |part: &str| only.is_empty() || only.contains(&part);
    let mut rows = Vec::new();
    let runtime = runtime(cores - 1)?;
    if wanted("issuance") {
        rows.extend(runtime.block_on(bench::issuance::rows()).context("issuance")?);
    }
    if wanted("tokens") {
        rows.extend(bench::tokens::rows().context("tokens")?);
    }
    if wanted("propagation") {
        rows.extend(runtime.block_on(bench::propagation::rows()).context("propagation")?);
    }
    bench::write(&repository().join("target/bench"), &rows)?;
    std::io::stdout().write_all(bench::table(&rows).as_bytes())?;
    Ok(if rows.iter().all(bench::Row::passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime(workers: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?)
}
