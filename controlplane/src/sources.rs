//! Where knowledge of the mesh comes from: sidecars ([`nodes`]) and the configuration file (`app`). Each source parses at its edge
//! and tells the state whole statements.

pub mod nodes;
