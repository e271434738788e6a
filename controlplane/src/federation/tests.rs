//! The link as it runs: real tasks and store trait, scripted peers, and two whole sides over real mTLS.

mod establish;
mod harness;
mod scripted;
mod sides;
