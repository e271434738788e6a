//! Quick tests of the whole in one process, one module per numbered item of what must really work, and one for bad input. Real
//! control planes and sidecars, mTLS, stores on disk; scripted clients; no Envoy. Everything waits on conditions.

mod mesh {
    mod bad_input;
    mod chains;
    mod commands;
    mod csr;
    mod identity;
    mod link;
    mod nodes;
    mod oracle;
    mod path;
    mod registration;
    mod rollout;
    mod shop;
    mod sidecar;
    mod state;
    mod trust;
    mod workloads;
    mod xds;
}
