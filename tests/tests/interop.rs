//! What others make of what we mint, and we and they of what is wrong: foreign SPIFFE implementations, OpenSSL and Envoy, each the real
//! one. `make tools` first.

mod interop {
    mod matrix;
    mod workload;
}
