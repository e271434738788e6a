//! How a command fails: what, why, what next, and the status that a script sees.

use std::fmt;

use symbolon_kit::text::printable;
use tonic::{Code, Status};

/// A check failed, or the control plane refused.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 64;
/// What was given is wrong.
pub const BAD_INPUT: u8 = 65;
/// The control plane cannot be reached.
pub const UNREACHABLE: u8 = 69;
/// `lint` found issues.
pub const FINDINGS: u8 = 79;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub code: u8,
    what: String,
    next: Option<String>,
}

impl Failure {
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), next: None }
    }

    /// A failure of which everything was said already.
    pub fn silent(code: u8) -> Self {
        Self { code, what: String::new(), next: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What to print, if anything.
    pub fn message(&self) -> Option<String> {
        (!self.what.is_empty()).then(|| self.to_string())
    }

    /// A refusal of the control plane, or none to be reached at `socket`.
    pub(super) fn of(status: &Status, socket: &std::path::Path) -> Self {
        let unreachable = status.code() == Code::Unavailable || status.code() == Code::Unknown && is_transport(status);
        if unreachable {
            let what = format!("no control plane answers at {}: {}", socket.display(), root_cause(status));
            return Self::new(UNREACHABLE, what)
                .next("is `symbolon serve` running? Name its socket with --admin-socket or SYMBOLON_ADMIN_SOCKET");
        }
        let code = if status.code() == Code::InvalidArgument { BAD_INPUT } else { FAILED };
        Self::new(code, printable(status.message()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "symbolon: {}", self.what)?;
        self.next.iter().try_for_each(|next| write!(f, "\n  {next}"))
    }
}

fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn root_cause(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    printable(&text)
}
