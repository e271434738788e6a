use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use futures::StreamExt;

use super::*;

const CHILD: &str = "SYMBOLON_TEST_STORE_CHILD";

fn key(text: &str) -> Key {
    Key(text.into())
}

fn prefix(text: &str) -> Prefix {
    Prefix(text.into())
}

fn put(text: &str, value: &str) -> Txn {
    Txn::new().put(key(text), value.into())
}

struct Scratch {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: SharedStore,
}

fn scratch() -> Scratch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state").join("store.redb");
    Scratch { store: open(&path).unwrap(), path, _folder: folder }
}

/// Opens what was just dropped: the writer's last clone of the file goes a few polls later.
async fn reopen(path: &Path) -> SharedStore {
    loop {
        match open(path) {
            Ok(store) => return store,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn applied(store: &SharedStore, txn: Txn) -> u64 {
    match store.commit(txn).await.unwrap() {
        Committed::Applied(revision) => revision,
        Committed::Conflict { key } => panic!("conflict at {key:?}"),
    }
}

/// `+key=value@revision`, `-key@revision`.
fn shown(event: &Event) -> String {
    match event {
        Event::Put(s) => format!("+{}={}@{}", s.key.0, String::from_utf8_lossy(&s.value), s.modified),
        Event::Deleted { key, revision } => format!("-{}@{revision}", key.0),
    }
}

async fn take(stream: &mut BoxStream<'static, Result<Event, Error>>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(shown(&stream.next().await.unwrap().unwrap()));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_value_is_read_back_with_its_revision() {
    let Scratch { store, .. } = &scratch();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(applied(store, put("a", "1")).await, 1);
    assert_eq!(applied(store, put("a", "2")).await, 2);
    let stored = Stored { key: key("a"), value: b"2".to_vec(), modified: 2 };
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(stored));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_done_whole_or_not_at_all() {
    let Scratch { store, .. } = &scratch();
    applied(store, Txn::new().absent(key("a")).put(key("a"), b"1".to_vec()).put(key("b"), b"1".to_vec())).await;
    for refused in [
        Txn::new().absent(key("a")).put(key("c"), vec![]),
        Txn::new().modified_at(key("a"), 1).modified_at(key("b"), 7).put(key("c"), vec![]).delete(key("a")),
        Txn::new().modified_at(key("none"), 1).put(key("c"), vec![]),
    ] {
        assert!(matches!(store.commit(refused).await.unwrap(), Committed::Conflict { .. }));
    }
    assert_eq!(store.get(&key("c")).await.unwrap(), None);
    assert!(store.get(&key("a")).await.unwrap().is_some());
    assert_eq!(applied(store, Txn::new().modified_at(key("a"), 1).delete(key("a"))).await, 2);
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn of_many_who_swap_at_once_one_wins() {
    let Scratch { store, .. } = &scratch();
    applied(store, put("a", "0")).await;
    let swaps = (0..50).map(|i| store.commit(Txn::new().modified_at(key("a"), 1).put(key("a"), vec![i])));
    let outcomes = futures::future::join_all(swaps).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Committed::Applied(_)))).count();
    assert_eq!(won, 1);
}

#[tokio::test(start_paused = true)]
async fn a_range_is_in_key_order_and_ends_with_its_prefix() {
    let Scratch { store, .. } = &scratch();
    for name in ["p/c", "p/a", "q/a", "p", "p/b/x", "o/z", "p0"] {
        applied(store, put(name, name)).await;
    }
    let (found, revision) = store.range(prefix("p/")).await.unwrap();
    assert_eq!(found.iter().map(|s| &*s.key.0).collect::<Vec<_>>(), ["p/a", "p/b/x", "p/c"]);
    assert_eq!(revision, 7);
    assert_eq!(store.range(prefix("")).await.unwrap().0.len(), 7);
    assert_eq!(store.range(prefix("zz")).await.unwrap().0, []);
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_every_change_once_in_order_and_resumes() {
    let Scratch { store, .. } = &scratch();
    applied(store, put("p/a", "1")).await;
    let (_, revision) = store.range(prefix("p/")).await.unwrap();
    let mut watch = store.watch(prefix("p/"), revision);
    applied(store, put("q/a", "x")).await;
    applied(store, put("p/b", "2").put(key("p/c"), b"3".to_vec())).await;
    assert_eq!(take(&mut watch, 2).await, ["+p/b=2@3", "+p/c=3@3"]);
    applied(store, Txn::new().delete(key("p/a")).delete(key("p/never"))).await;
    applied(store, put("p/a", "4")).await;
    assert_eq!(take(&mut watch, 2).await, ["-p/a@4", "+p/a=4@5"]);
    let mut resumed = store.watch(prefix("p/"), 3);
    assert_eq!(take(&mut resumed, 2).await, ["-p/a@4", "+p/a=4@5"]);
    applied(store, put("p/z", "5")).await;
    assert_eq!(take(&mut resumed, 1).await, ["+p/z=5@6"]);
}

#[tokio::test]
async fn a_watch_beside_concurrent_writers_misses_nothing() {
    let Scratch { store, .. } = &scratch();
    let mut watch = store.watch(prefix("p/"), 0);
    let commits = (0..1_000).map(|i| store.commit(put(&format!("p/{i}"), "x")));
    let watching = async {
        let mut revisions = Vec::new();
        while revisions.len() < 1_000 {
            revisions.push(watch.next().await.unwrap().unwrap().revision());
        }
        revisions
    };
    let (_, revisions) = tokio::join!(futures::future::join_all(commits), watching);
    assert_eq!(revisions, (1..=1_000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_read_again() {
    let Scratch { store, path, _folder } = scratch();
    applied(&store, put("a", "1")).await;
    applied(&store, put("a", "2")).await;
    drop(store);
    let store = reopen(&path).await;
    let mut old = store.watch(prefix(""), 1);
    assert!(matches!(old.next().await, Some(Err(Error::Compacted(1)))));
    assert!(old.next().await.is_none());
    let mut current = store.watch(prefix(""), 2);
    applied(&store, put("a", "3")).await;
    assert_eq!(take(&mut current, 1).await, ["+a=3@3"]);
}

#[tokio::test]
async fn an_idle_watch_is_not_compacted_by_the_changes_of_others_that_it_follows() {
    let Scratch { store, .. } = &scratch();
    let mut watch = store.watch(prefix("p/"), 0);
    let big = vec![0u8; 4 * 1024 * 1024];
    for _ in 0..8 {
        applied(store, Txn::new().put(key("q"), big.clone())).await;
        assert!(futures::poll!(watch.next()).is_pending());
    }
    applied(store, put("p/a", "1")).await;
    assert_eq!(take(&mut watch, 1).await, ["+p/a=1@9"]);
}

#[tokio::test]
async fn a_dropped_store_ends_its_watches() {
    let Scratch { store, _folder, .. } = scratch();
    let mut watch = store.watch(prefix(""), 0);
    drop(store);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening_and_revisions_go_on() {
    let Scratch { store, path, _folder } = scratch();
    applied(&store, put("a", "1")).await;
    drop(store);
    let store = reopen(&path).await;
    assert_eq!(store.get(&key("a")).await.unwrap().map(|s| s.value), Some(b"1".to_vec()));
    assert_eq!(applied(&store, put("b", "1")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_takes_its_keys_along() {
    let Scratch { store, .. } = &scratch();
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    applied(store, Txn::new().put_leased(key("p/a"), b"1".to_vec(), lease).put(key("p/b"), b"2".to_vec())).await;
    applied(store, Txn::new().put_leased(key("p/kept"), b"1".to_vec(), lease)).await;
    applied(store, put("p/kept", "without the lease")).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    store.keep_alive(lease).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(store.get(&key("p/a")).await.unwrap().is_some(), "renewed");
    let mut watch = store.watch(prefix("p/"), 3);
    assert_eq!(take(&mut watch, 1).await, ["-p/a@4"]);
    assert_eq!(store.range(prefix("p/")).await.unwrap().0.len(), 2);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseExpired)));
    let late = store.commit(Txn::new().put_leased(key("p/a"), vec![], lease)).await;
    assert!(matches!(late, Err(Error::LeaseExpired)));
}

#[tokio::test]
async fn a_lease_outlives_a_restart() {
    let Scratch { store, path, _folder } = scratch();
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    applied(&store, Txn::new().put_leased(key("a"), vec![1], lease)).await;
    drop(store);
    let store = reopen(&path).await;
    store.keep_alive(lease).await.unwrap();
    assert_ne!(store.grant_lease(Duration::from_secs(1)).await.unwrap(), lease);
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let Scratch { path, store: _store, _folder } = scratch();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_second_opener_is_told_what_to_do() {
    let Scratch { path, store: _store, _folder } = scratch();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("another process has it open") && error.contains("Stop it first"), "{error}");
}

#[tokio::test]
async fn fault_046_a_file_that_was_altered_is_not_trusted() {
    let Scratch { store, path, _folder } = scratch();
    let needle = b"the authorities of a.example, as published";
    applied(&store, Txn::new().put(key("identity/bundles/a.example"), needle.to_vec())).await;
    drop(store);
    drop(reopen(&path).await); // its writer has let go of the file
    let mut bytes = std::fs::read(&path).unwrap();
    let found: Vec<_> = bytes.windows(needle.len()).enumerate().filter(|(_, w)| w == needle).map(|(i, _)| i).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at + 3] ^= 1;
    }
    let copy = path.with_extension("damaged");
    std::fs::write(&copy, bytes).unwrap();
    let error = open(&copy).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[tokio::test]
async fn bad_input_beyond_the_bounds_is_refused() {
    let Scratch { store, .. } = &scratch();
    for txn in [put("", "x"), put(&"k".repeat(5_000), "x"), Txn::new().put(key("k"), vec![0; MAX_VALUE_BYTES + 1])] {
        assert!(matches!(store.commit(txn).await, Err(Error::Io { .. })));
    }
    assert_eq!(store.range(prefix("")).await.unwrap(), (vec![], 0));
}

/// Not a test by itself: [`what_was_acknowledged_survives_kill_9`] runs it in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_commits_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        async move {
            for i in 0.. {
                let name = format!("{writer}/{i}");
                let revision = applied(&store, put(&name, &name)).await;
                println!("ack {name} {revision}");
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store::redb::tests::child_that_commits_until_killed", "--exact", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        let mut words = line.split(' ').skip_while(|word| *word != "ack").skip(1);
        if let (Some(name), Some(Ok(revision))) = (words.next(), words.next().map(str::parse::<u64>)) {
            acknowledged.push((name.to_owned(), revision));
        }
        if acknowledged.len() == 300 {
            child.kill().unwrap(); // SIGKILL; what is in the pipe is read to its end
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 300, "{} only", acknowledged.len());
    let store = open(&path).unwrap();
    for (name, revision) in acknowledged {
        let stored = store.get(&key(&name)).await.unwrap();
        assert_eq!(stored, Some(Stored { key: key(&name), value: name.clone().into(), modified: revision }));
    }
}
