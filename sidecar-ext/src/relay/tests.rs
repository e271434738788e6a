//! Scripted clients over a real Unix socket, and a control plane of the test's own over h2c.

mod ads;
mod load;
mod rig;
