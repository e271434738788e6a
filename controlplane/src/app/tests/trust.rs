//! Federation of trust over real sockets: what foreign bundle endpoints answer, what ours does, and how trust ends.

mod documents;
mod end;
mod endpoint;
mod hostile;
mod polling;
mod world;
