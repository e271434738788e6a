use std::net::SocketAddr;

use symbolon_proto::node::workload::Health as Told;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::board::Next;
use super::health::{Policy, State};
use super::probe::Target;
use super::*;
use crate::config::HealthCheck;

fn workload(name: &str, address: Option<SocketAddr>, health: Option<HealthCheck>) -> Workload {
    Workload {
        name: name.into(),
        service: Some("payments.shop".into()),
        identity: "spiffe://a.example/ns/shop/sa/payments".parse().unwrap(),
        selectors: Default::default(),
        address,
        inbound: Some("127.0.0.2:15006".parse().unwrap()),
        outbound: None,
        health,
        upstreams: vec!["ledger.shop".into()],
        weight: 3,
    }
}

fn told(report: &node::Workloads) -> Vec<(&str, Told)> {
    report.workloads.iter().map(|workload| (workload.name.as_str(), workload.health())).collect()
}

/// The machine's whole table, for rise 2 and fall 3.
#[test]
fn health_turns_only_after_repeated_answers() {
    let policy = Policy { rise: 2, fall: 3 };
    let starting = |wait| Starting { wait: Duration::from_millis(wait) };
    use State::{Healthy, New, Starting, Unhealthy};
    for (state, well, next) in [
        (New, true, Healthy { bad: 0 }),
        (New, false, starting(20)),
        (starting(160), true, Healthy { bad: 0 }),
        (starting(160), false, starting(170)),
        (Starting { wait: Duration::MAX }, false, Starting { wait: Duration::MAX }),
        (Healthy { bad: 0 }, true, Healthy { bad: 0 }),
        (Healthy { bad: 2 }, true, Healthy { bad: 0 }),
        (Healthy { bad: 0 }, false, Healthy { bad: 1 }),
        (Healthy { bad: 1 }, false, Healthy { bad: 2 }),
        (Healthy { bad: 2 }, false, Unhealthy { good: 0 }),
        (Unhealthy { good: 0 }, false, Unhealthy { good: 0 }),
        (Unhealthy { good: 1 }, false, Unhealthy { good: 0 }),
        (Unhealthy { good: 0 }, true, Unhealthy { good: 1 }),
        (Unhealthy { good: 1 }, true, Healthy { bad: 0 }),
    ] {
        assert_eq!(state.step(well, policy), next, "{state:?}, {well}");
        assert_eq!(state.is_healthy(), matches!(state, Healthy { .. }), "{state:?}");
    }
    assert_eq!(Policy::default(), Policy { rise: 1, fall: 2 });
}

/// What is being started is asked often, and less often the longer it takes; all else at the interval.
#[test]
fn a_workload_that_starts_is_asked_again_soon() {
    let (interval, policy) = (Duration::from_secs(1), Policy::default());
    let (mut state, mut since, mut checks) = (State::New, Duration::ZERO, 0);
    while since < Duration::from_secs(10) {
        state = state.step(false, policy);
        let wait = state.wait(interval);
        assert!(wait <= Duration::from_millis(21) + since / 16, "{wait:?} at {since:?}");
        (since, checks) = (since + wait, checks + 1);
    }
    assert!(checks < 80, "{checks} checks in ten seconds");
    for _ in 0..2000 {
        state = state.step(false, policy);
    }
    assert_eq!(state.wait(interval), interval);
    assert_eq!(State::New.step(false, policy).wait(Duration::from_millis(5)), Duration::from_millis(5));
    for state in [State::Healthy { bad: 0 }, State::Healthy { bad: 1 }, State::Unhealthy { good: 0 }] {
        assert_eq!(state.wait(interval), interval, "{state:?}");
    }
}

fn address(port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn a_workload_is_told_at_once_and_unhealthy_until_it_answers_well() {
    let mut board = Board::new(Policy { rise: 3, fall: 1 });
    let plain = Workload { inbound: None, ..workload("plain", address(80), None) };
    let checked = workload("checked", address(81), Some(HealthCheck::Tcp));
    let begin = board.listed([plain, checked].into());
    assert_eq!(begin.iter().map(|begin| begin.name.as_str()).collect::<Vec<_>>(), ["checked"]);
    assert!(board.is_waiting());
    assert_eq!(told(&board.report().unwrap()), [("plain", Told::Unknown), ("checked", Told::Unhealthy)]);
    for _ in 0..3 {
        assert!(!board.answered(&begin[0], false).unwrap().turned);
        assert!(!board.is_waiting(), "it has answered, if badly");
        assert_eq!(board.report(), None);
    }
    assert_eq!(board.answered(&begin[0], true), Some(Next { state: State::Healthy { bad: 0 }, turned: true }));
    let report = board.report().unwrap();
    assert_eq!(told(&report), [("plain", Told::Unknown), ("checked", Told::Healthy)]);
    assert_eq!(report.revision, 2);
    assert_eq!(board.report(), None, "nothing new to say");
    // Every field arrives.
    assert_eq!(
        report.workloads[1],
        node::Workload {
            name: "checked".into(),
            service: "payments.shop".into(),
            identity: "spiffe://a.example/ns/shop/sa/payments".into(),
            address: "127.0.0.1:81".into(),
            inbound: "127.0.0.2:15006".into(),
            upstreams: vec!["ledger.shop".into()],
            health: Told::Healthy.into(),
            weight: 3,
            outbound: String::new(),
        }
    );
}

/// (inbound?, health?) → what is checked: (inbound?, application?).
#[test]
fn both_the_inbound_and_the_application_are_checked_where_there_are_such() {
    let inbound = workload("w", None, None).inbound;
    for (has_inbound, health, expected) in [
        (false, None, None),
        (true, None, Some((true, false))),
        (false, Some(HealthCheck::Tcp), Some((false, true))),
        (true, Some(HealthCheck::Tcp), Some((true, true))),
    ] {
        let inbound = inbound.filter(|_| has_inbound);
        let target = Target::of(&Workload { inbound, ..workload("w", address(81), health.clone()) });
        let parts = target.map(|target| (target.inbound.is_some(), target.application.is_some()));
        assert_eq!(parts, expected, "{has_inbound} {health:?}");
    }
}

#[test]
fn an_edited_target_is_checked_anew_but_keeps_its_standing() {
    let mut board = Board::new(Policy::default());
    let first = board.listed([workload("w", address(81), Some(HealthCheck::Tcp))].into());
    board.answered(&first[0], true);
    board.report();
    let same = Workload { weight: 9, ..workload("w", address(81), Some(HealthCheck::Tcp)) };
    assert_eq!(board.listed([same].into()), [], "the same target: the check goes on");
    let second = board.listed([workload("w", address(82), Some(HealthCheck::Tcp))].into());
    assert_eq!(second.len(), 1);
    assert_eq!(told(&board.report().unwrap()), [("w", Told::Healthy)], "an edit is no outage");
    assert_eq!(board.answered(&first[0], false), None, "the old target is of no interest");
    assert_eq!(board.answered(&second[0], false), Some(Next { state: State::Healthy { bad: 1 }, turned: false }));
    assert_eq!(board.answered(&second[0], false), Some(Next { state: State::Unhealthy { good: 0 }, turned: true }));
    let third = board.listed([workload("w", address(83), Some(HealthCheck::Tcp))].into());
    let next = board.answered(&third[0], false).unwrap();
    assert_eq!(next.state, State::New.step(false, Policy::default()), "who was ill is waited for anew");
    board.listed([].into());
    assert_eq!(board.answered(&third[0], true), None, "a removed workload is checked no more");
    assert_eq!(told(&board.report().unwrap()), []);
    let again = board.listed([workload("w", address(83), Some(HealthCheck::Tcp))].into());
    assert_eq!(again.len(), 1);
    assert!(board.is_waiting(), "what came back is new");
}

#[test]
fn another_inbound_is_another_endpoint() {
    let mut board = Board::new(Policy::default());
    let first = board.listed([workload("w", address(81), None)].into());
    board.answered(&first[0], true);
    assert_eq!(told(&board.report().unwrap()), [("w", Told::Healthy)]);
    let moved = Workload { inbound: address(15007), ..workload("w", address(81), None) };
    let second = board.listed([moved].into());
    assert_eq!(told(&board.report().unwrap()), [("w", Told::Unhealthy)], "nobody may listen there yet");
    assert!(board.answered(&second[0], true).unwrap().turned);
}

/// A server that answers each connection with `reply`; `None`: with nothing at all.
async fn server(reply: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            if let Some(reply) = reply {
                let mut head = [0; 256];
                let read = socket.read(&mut head).await.unwrap_or(0);
                assert!(read == 0 || head.starts_with(b"GET /healthz?x=1 HTTP/1.1\r\n"));
                let _ = socket.write_all(reply.as_bytes()).await;
            }
            held.push(socket);
        }
    });
    address
}

/// An address of this machine at which nobody listens.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn only_2xx_3xx_and_open_ports_are_well() {
    let check = async |address, probe: &HealthCheck| {
        let target = Target { inbound: None, application: Some((address, probe.clone())) };
        target.check(Duration::from_millis(300)).await
    };
    let get = HealthCheck::Http("/healthz?x=1".into());
    for (reply, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
        ("HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", Ok(())),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Err(Ill::Application)),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", Err(Ill::Application)),
        ("SSH-2.0-OpenSSH\r\n", Err(Ill::Application)),
    ] {
        assert_eq!(check(server(Some(reply)).await, &get).await, expected, "{reply}");
    }
    let silent = server(None).await;
    assert_eq!(check(silent, &get).await, Err(Ill::Application), "no answer in time");
    assert_eq!(check(silent, &HealthCheck::Tcp).await, Ok(()));
    assert_eq!(check(free().await, &HealthCheck::Tcp).await, Err(Ill::Application), "nobody listens");
    assert_eq!(check(free().await, &get).await, Err(Ill::Application));
}

#[tokio::test]
async fn the_inbound_need_only_accept_and_then_the_application_counts() {
    let (silent, free) = (server(None).await, free().await);
    for (inbound, application, expected) in [
        (silent, None, Ok(())),
        (free, None, Err(Ill::Inbound)),
        (silent, Some(silent), Ok(())),
        (free, Some(silent), Err(Ill::Inbound)),
        (silent, Some(free), Err(Ill::Application)),
        (free, Some(free), Err(Ill::Inbound)),
    ] {
        let application = application.map(|address| (address, HealthCheck::Tcp));
        let target = Target { inbound: Some(inbound), application };
        assert_eq!(target.check(Duration::from_secs(1)).await, expected, "{target:?}");
    }
}

/// A simultaneous open with oneself, which the system may do to whoever connects to a port that nobody has.
#[tokio::test]
async fn a_connection_to_itself_is_nobodys_answer() {
    let own = TcpSocket::new_v4().unwrap();
    own.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = own.local_addr().unwrap();
    let met = own.connect(address).await.unwrap();
    assert!(!probe::is_another(&met));
    let other = tokio::net::TcpStream::connect(server(None).await).await.unwrap();
    assert!(probe::is_another(&other));
}

/// A node whose file names workloads by name only.
struct Rig {
    folder: tempfile::TempDir,
    handle: Handle,
    reports: watch::Receiver<Arc<node::Workloads>>,
    tasks: Tasks,
    drain: Drain,
}

/// Starts with the workloads `first`; `of` says what a name stands for.
async fn rig(first: &str, of: impl Fn(&str) -> Workload + Send + Sync + 'static) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.yaml");
    let load = file::tests::names_as_workloads(&path, of);
    std::fs::write(&path, first).unwrap();
    let (drain, metrics) = (Drain::new(), Metrics::new());
    let tasks = Tasks::new(drain.clone());
    let config = Config { file: path, health_interval: Duration::from_millis(100), policy: Policy::default() };
    let first = load().unwrap().into();
    let handle = start(config, first, load, &tasks, drain.clone(), &metrics).await;
    let reports = handle.reports();
    Rig { folder, handle, reports, tasks, drain }
}

impl Rig {
    fn write(&self, names: &str) {
        std::fs::write(self.folder.path().join("new"), names).unwrap();
        std::fs::rename(self.folder.path().join("new"), self.folder.path().join("sidecar.yaml")).unwrap();
    }

    /// Waits for a report that says this; its revision.
    async fn until(&mut self, expected: &[(&str, Told)]) -> u64 {
        self.reports.wait_for(|report| told(report) == expected).await.unwrap().revision
    }

    async fn end(self) {
        self.drain.start();
        assert!(self.tasks.join(Duration::from_secs(5)).await, "both tasks end with the drain");
    }
}

/// From the file to the report: added, turning ill and well, removed.
#[tokio::test]
async fn reports_follow_the_list_and_the_health() {
    let (app, envoy) = (server(None).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = envoy.local_addr().unwrap();
    let checked = Workload { inbound: Some(at), ..workload("checked", Some(app), Some(HealthCheck::Tcp)) };
    let mut rig = rig("plain checked", move |name| match name {
        "checked" => checked.clone(),
        name => Workload { inbound: None, ..workload(name, address(80), None) },
    })
    .await;
    // Whole from the first report on: a restart makes nobody unhealthy who is well.
    assert_eq!(rig.until(&[("plain", Told::Unknown), ("checked", Told::Healthy)]).await, 1);
    drop(envoy);
    assert_eq!(rig.until(&[("plain", Told::Unknown), ("checked", Told::Unhealthy)]).await, 2);
    let _envoy = TcpListener::bind(at).await.unwrap();
    assert_eq!(rig.until(&[("plain", Told::Unknown), ("checked", Told::Healthy)]).await, 3);
    rig.write("other");
    assert_eq!(rig.until(&[("other", Told::Unknown)]).await, 4);
    assert_eq!(rig.handle.lists().borrow().len(), 1);
    rig.end().await;
}

/// A workload that appears is told before its Envoy listens (which it will only once the control plane knows of it), though its
/// application is long there; and it is healthy when Envoy listens.
#[tokio::test]
async fn a_new_workload_is_unhealthy_until_its_envoy_listens() {
    let (app, at) = (server(None).await, free().await);
    let mut rig = rig("plain", move |name| match name {
        "new" => Workload { inbound: Some(at), ..workload(name, Some(app), Some(HealthCheck::Tcp)) },
        name => Workload { inbound: None, ..workload(name, address(80), None) },
    })
    .await;
    rig.write("plain new");
    assert_eq!(rig.until(&[("plain", Told::Unknown), ("new", Told::Unhealthy)]).await, 2);
    let _envoy = TcpListener::bind(at).await.unwrap();
    assert_eq!(rig.until(&[("plain", Told::Unknown), ("new", Told::Healthy)]).await, 3);
    rig.end().await;
}

/// The report does not wait for the first check of what appears.
#[tokio::test]
async fn a_new_workload_is_told_without_waiting_for_its_answer() {
    let silent = server(None).await;
    let mut rig = rig("plain", move |name| match name {
        "new" => Workload { inbound: None, ..workload(name, Some(silent), Some(HealthCheck::Http("/".into()))) },
        name => Workload { inbound: None, ..workload(name, address(80), None) },
    })
    .await;
    rig.write("plain new");
    rig.until(&[("plain", Told::Unknown), ("new", Told::Unhealthy)]).await;
    rig.end().await;
}
