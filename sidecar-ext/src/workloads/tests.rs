use std::net::SocketAddr;

use symbolon_proto::node::workload::Health as Told;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::health::{Policy, State};
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
    use State::{Healthy, Unhealthy, Unknown};
    for (state, well, next) in [
        (Unknown, true, Healthy { bad: 0 }),
        (Unknown, false, Unhealthy { good: 0 }),
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
    }
    assert_eq!(Policy::default(), Policy { rise: 1, fall: 2 });
}

fn address(port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn a_workload_is_withheld_until_its_first_answer() {
    let mut board = Board::new(Policy::default());
    let plain = workload("plain", address(80), None);
    let checked = workload("checked", address(81), Some(HealthCheck::Tcp));
    let begin = board.listed([plain, checked].into());
    assert_eq!(begin.iter().map(|begin| begin.name.as_str()).collect::<Vec<_>>(), ["checked"]);
    assert!(board.is_withholding());
    assert_eq!(told(&board.report().unwrap()), [("plain", Told::Unknown)]);
    assert!(board.answered("checked", begin[0].generation, true).0);
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

#[test]
fn an_edited_target_is_checked_anew_but_keeps_its_standing() {
    let mut board = Board::new(Policy::default());
    let first = board.listed([workload("w", address(81), Some(HealthCheck::Tcp))].into());
    board.answered("w", first[0].generation, true);
    board.report();
    let same = Workload { weight: 9, ..workload("w", address(81), Some(HealthCheck::Tcp)) };
    assert_eq!(board.listed([same].into()), [], "the same target: the check goes on");
    let second = board.listed([workload("w", address(82), Some(HealthCheck::Tcp))].into());
    assert_eq!(second.len(), 1);
    assert_eq!(told(&board.report().unwrap()), [("w", Told::Healthy)], "an edit is no outage");
    assert_eq!(board.answered("w", first[0].generation, false), (false, None), "the old target is of no interest");
    assert_eq!(board.answered("w", second[0].generation, false), (true, None));
    let turned = board.answered("w", second[0].generation, false).1.unwrap();
    assert_eq!(turned, (State::Healthy { bad: 1 }, State::Unhealthy { good: 0 }));
    board.listed([].into());
    assert_eq!(board.answered("w", second[0].generation, true), (false, None), "a removed workload is checked no more");
    assert_eq!(told(&board.report().unwrap()), []);
    let again = board.listed([workload("w", address(82), Some(HealthCheck::Tcp))].into());
    assert_eq!(again.len(), 1);
    assert!(board.is_withholding(), "what came back is new");
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

#[tokio::test]
async fn only_2xx_3xx_and_open_ports_are_well() {
    let interval = Duration::from_millis(300);
    let get = HealthCheck::Http("/healthz?x=1".into());
    for (reply, well) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", false),
        ("SSH-2.0-OpenSSH\r\n", false),
    ] {
        assert_eq!(probe::check(&get, server(Some(reply)).await, interval).await, well, "{reply}");
    }
    let silent = server(None).await;
    assert!(!probe::check(&get, silent, interval).await, "no answer in time");
    assert!(probe::check(&HealthCheck::Tcp, silent, interval).await);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(!probe::check(&HealthCheck::Tcp, free, interval).await, "nobody listens");
    assert!(!probe::check(&get, free, interval).await);
}

/// From the file to the report: added, turning ill and well, removed.
#[tokio::test]
async fn reports_follow_the_list_and_the_health() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.yaml");
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let checked = workload("checked", Some(at), Some(HealthCheck::Tcp));
    let load = file::tests::names_as_workloads(&path, move |name| match name {
        "checked" => checked.clone(),
        name => workload(name, address(80), None),
    });
    std::fs::write(&path, "plain checked").unwrap();
    let (drain, metrics) = (Drain::new(), Metrics::new());
    let tasks = Tasks::new(drain.clone());
    let config = Config { file: path.clone(), health_interval: Duration::from_millis(100), policy: Policy::default() };
    let first = load().unwrap().into();
    let handle = start(config, first, load, &tasks, drain.clone(), &metrics).await;
    let mut reports = handle.reports();
    let report = reports.borrow_and_update().clone();
    assert_eq!(told(&report), [("plain", Told::Unknown), ("checked", Told::Healthy)], "whole from the first report on");
    assert_eq!(report.revision, 1);

    drop(socket);
    let ill = reports.wait_for(|report| told(report)[1].1 == Told::Unhealthy).await.unwrap().clone();
    assert_eq!(ill.revision, 2);
    let _socket = TcpListener::bind(at).await.unwrap();
    reports.wait_for(|report| told(report)[1].1 == Told::Healthy).await.unwrap();

    std::fs::write(folder.path().join("new"), "other").unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    let report = reports.wait_for(|report| report.workloads.len() == 1).await.unwrap().clone();
    assert_eq!((told(&report), report.revision), (vec![("other", Told::Unknown)], 4));
    drain.start();
    assert!(tasks.join(Duration::from_secs(5)).await, "both tasks end with the drain");
}
