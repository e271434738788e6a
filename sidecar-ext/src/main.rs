//! `symbolon-sidecar`: see [`sidecar_ext`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sidecar_ext::cli::main(std::env::args_os())
}
