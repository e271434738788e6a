//! Scenarios with real processes: control planes, sidecars, Envoys and applications. They run one after another
//! (`--test-threads=1`), each on its own loopback network. `make build` first.

mod scenarios {
    mod arms;
    mod controls;
    mod demo;
    mod foreign;
    mod identity;
    mod kills;
    mod trust;
}
