use super::*;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    folder
}

#[tokio::test]
async fn the_socket_and_its_folder_are_for_us_only() {
    let folder = folder();
    let path = folder.path().join("admin").join("admin.sock");
    let _listener = bind(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn bad_155_what_is_no_socket_is_left_alone() {
    let folder = folder();
    let (file, link, target) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("target"));
    std::fs::write(&file, "precious").unwrap();
    drop(bind(&target).unwrap());
    std::os::unix::fs::symlink(&target, &link).unwrap();
    for path in [&file, &link] {
        assert!(matches!(bind(path), Err(Error::NotASocket(_))));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(link.is_symlink());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = folder();
    let path = folder.path().join("admin.sock");
    drop(bind(&path).unwrap());
    let _live = bind(&path).unwrap();
    assert!(matches!(bind(&path), Err(Error::InUse(_))));
}

#[tokio::test]
async fn a_folder_that_others_may_enter_is_refused() {
    let folder = folder();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let error = bind(&folder.path().join("admin.sock")).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[tokio::test]
async fn a_path_that_does_not_fit_is_refused_with_a_hint() {
    let error = bind(Path::new(&format!("/tmp/{}", "x".repeat(120)))).unwrap_err();
    assert!(matches!(error, Error::TooLong(_)));
}
