//! The committed generated code is what the definitions generate today. To renew it: `SYMBOLON_BLESS=1 cargo test -p symbolon-proto`.

#![expect(clippy::unwrap_used, reason = "a test, helpers included")]

use std::fs;
use std::path::Path;

use prost::Message as _;
use tonic_build::manual::{Builder, Method, Service};

/// The ADS service with our own codecs: `PreEncoded` answers for the server, raw bytes for the relay.
fn ads(codec: &str, input: &str, sotw: &str, delta: &str, output: &str) -> Service {
    let method = |name: &str, route: &str, message: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(if input.is_empty() { message.to_owned() } else { input.to_owned() })
            .output_type(output)
            .codec_path(codec)
            .client_streaming()
            .server_streaming()
            .build()
    };
    Service::builder()
        .name("AggregatedDiscoveryService")
        .package("envoy.service.discovery.v3")
        .method(method("stream_aggregated_resources", "StreamAggregatedResources", sotw))
        .method(method("delta_aggregated_resources", "DeltaAggregatedResources", delta))
        .build()
}

fn generate(out: &Path) {
    let files = [
        "workload.proto",
        "symbolon/node/v1/node.proto",
        "symbolon/federation/v1/federation.proto",
        "symbolon/admin/v1/admin.proto",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(files, [&root]).unwrap();
    tonic_prost_build::configure().bytes(".").btree_map(".").out_dir(out).compile_fds(descriptors).unwrap();
    fs::write(out.join("workload.bin"), workload_descriptors(&root)).unwrap();
    let discovery = "envoy_types::pb::envoy::service::discovery::v3";
    let (sotw, delta) = (format!("{discovery}::DiscoveryRequest"), format!("{discovery}::DeltaDiscoveryRequest"));
    let name = "envoy.service.discovery.v3.AggregatedDiscoveryService.rs";
    Builder::new().build_client(true).build_server(true).out_dir(out).compile(&[ads(
        "crate::encoded::RawCodec",
        "bytes::Bytes",
        &sotw,
        &delta,
        "bytes::Bytes",
    )]);
    fs::rename(out.join(name), out.join("raw.AggregatedDiscoveryService.rs")).unwrap();
    Builder::new().build_client(false).build_server(true).out_dir(out).compile(&[ads(
        "crate::encoded::PreEncodedCodec",
        "",
        &sotw,
        &delta,
        "crate::encoded::PreEncoded",
    )]);
}

/// What the Workload API says of itself by reflection: its definition and what that imports, without comments.
fn workload_descriptors(root: &Path) -> Vec<u8> {
    let mut descriptors = protox::compile(["workload.proto"], [root]).unwrap();
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    descriptors.encode_to_vec()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn generated_code_is_fresh() {
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("SYMBOLON_BLESS").is_some() {
        fs::remove_dir_all(&committed).unwrap();
        fs::create_dir_all(&committed).unwrap();
        for (name, content) in files(fresh.path()) {
            fs::write(committed.join(name), content).unwrap();
        }
    }
    let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (want, have) = (files(fresh.path()), files(&committed));
    assert_eq!(names(&want), names(&have), "renew with SYMBOLON_BLESS=1 cargo test -p symbolon-proto");
    for ((name, want), (_, have)) in want.iter().zip(&have) {
        assert!(want == have, "{name} is stale: renew with SYMBOLON_BLESS=1 cargo test -p symbolon-proto");
    }
}
