use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use super::*;

fn refused() -> Counter {
    symbolon_kit::metrics::Metrics::new().counter("refused", "test")
}

#[tokio::test]
async fn the_socket_is_for_everybody_and_goes_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    let listener = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o022, 0, "nobody else may write there");
    assert!(matches!(bind(&path), Err(BindError::InUse { .. })), "another process would be cut off");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn an_abandoned_socket_is_replaced_and_a_foreign_one_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    std::fs::create_dir(dir.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // its file stays
    let listener = bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    drop(listener);
    assert!(path.exists(), "only our own file is removed");
}

#[tokio::test]
async fn bad_155_whatever_else_lies_there_refuses_the_start_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("file"), "x").unwrap();
    std::fs::create_dir(run.join("folder")).unwrap();
    symlink("nowhere", run.join("dangling")).unwrap();
    let _live = std::os::unix::net::UnixListener::bind(run.join("live")).unwrap();
    symlink("live", run.join("link")).unwrap();
    for name in ["file", "folder", "dangling", "link"] {
        assert!(matches!(bind(&run.join(name)), Err(BindError::InTheWay { .. })), "{name}");
        assert!(std::fs::symlink_metadata(run.join(name)).is_ok(), "{name} stays");
    }
}

#[tokio::test]
async fn a_folder_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o775, 0o757, 0o1777] {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(bind(&dir.path().join("s")), Err(BindError::Folder { .. })), "{mode:o}");
    }
}

#[tokio::test]
async fn relative_paths_work_where_absolute_ones_are_too_long() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let relative = Path::new(dir.path().file_name().unwrap()).join("run/agent.sock");
    let _listener = bind(&relative).unwrap();
    UnixStream::connect(&relative).await.unwrap();
    assert!(matches!(bind(&dir.path().join("x".repeat(100)).join("y")), Err(BindError::TooLong { .. })));
}

#[tokio::test]
async fn bad_153_other_protocols_and_methods_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    let drain = Drain::new();
    let refused = refused();
    let serving = serve(bind(&path).unwrap(), Routes::default(), Attestor::default(), refused, drain.clone());
    let serving = tokio::spawn(serving);
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff"]
    {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let mut answer = Vec::new();
        // Closed, and not left hanging; what it says is HTTP/2's affair.
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{garbage:?}");
    }
    let mut grpc = tonic::client::Grpc::new(symbolon_kit::net::unix_channel(&path));
    grpc.ready().await.unwrap();
    let method = http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/Nonsense");
    let codec = symbolon_proto::encoded::RawCodec;
    let answer = grpc.unary(tonic::Request::new(bytes::Bytes::new()), method, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    drain.start();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    assert!(!path.exists());
}

/// What gRPC's C core says over a Unix socket, byte for byte where it matters.
#[tokio::test]
async fn a_client_whose_authority_is_the_sockets_path_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    let drain = Drain::new();
    let serving = serve(bind(&path).unwrap(), Routes::default(), Attestor::default(), refused(), drain.clone());
    tokio::spawn(serving);
    let text = |first: u8, value: &[u8]| [&[first, u8::try_from(value.len()).unwrap()], value].concat();
    let block = [
        &[0x83, 0x86][..], // POST, http
        &text(0x44, b"/SpiffeWorkloadAPI/FetchX509SVID"),
        &text(0x40, b":authority"),
        &text(19, b"%2Frun%2Fagent.sock")[1..],
        &text(0x5f, b"application/grpc"),
    ]
    .concat();
    let length = u8::try_from(block.len()).unwrap();
    let request =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0".as_slice(), &[length, 1, 5, 0, 0, 0, 1], &block];
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(&request.concat()).await.unwrap();
    let answer = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            if head[8] == 1 {
                return head[3]; // the first frame of the stream
            }
        }
    };
    assert_eq!(crate::testing::soon(answer).await, 1, "HEADERS, and not RST_STREAM");
    drain.start();
}
