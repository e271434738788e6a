use std::collections::BTreeMap;
use std::sync::Mutex;

use symbolon_proto::ids::TrustDomain;
use tokio::sync::Notify;

use super::*;
use crate::identity::Held;
use crate::testing::{Ca, HOUR, entry, now, soon, until};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

/// Signs by a script.
struct Fake {
    ca: Mutex<Arc<Ca>>,
    grants: Mutex<BTreeMap<String, String>>,
    batches: watch::Sender<Vec<usize>>,
    ttl: Duration,
    /// Each request takes one; none: it waits.
    gate: Option<Notify>,
}

impl Minter for Fake {
    fn mint(&self, csrs: Vec<wire::Csr>) -> BoxFuture<'_, Result<Vec<wire::Minted>, Status>> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            self.batches.send_modify(|batches| batches.push(csrs.len()));
            let (grants, ca) = (self.grants.lock().unwrap(), self.ca.lock().unwrap().clone());
            let mint = |csr: wire::Csr| {
                let outcome = match grants.get(&csr.entry_id) {
                    Some(id) => {
                        let chain = vec![ca.sign(&csr.csr, id, now(), self.ttl).to_vec().into()];
                        wire::minted::Outcome::Svid(wire::Svid { spiffe_id: id.clone(), chain, expires_at: 0 })
                    }
                    None => wire::minted::Outcome::Refusal(wire::Refusal {
                        reason: "unknown_entry".into(),
                        detail: String::new(),
                    }),
                };
                wire::Minted { outcome: Some(outcome) }
            };
            Ok(csrs.into_iter().map(mint).collect())
        })
    }
}

struct Rig {
    fake: Arc<Fake>,
    entries: watch::Sender<Option<EntryList>>,
    view: watch::Receiver<Arc<View>>,
    drain: Drain,
    task: tokio::task::JoinHandle<()>,
    trust: watch::Sender<Arc<Trust>>,
    _workloads: watch::Sender<Arc<[Workload]>>,
}

fn fake(grants: &[(&str, &str)]) -> Fake {
    Fake {
        ca: Mutex::new(Arc::new(Ca::new("a.example"))),
        grants: Mutex::new(grants.iter().map(|(id, spiffe_id)| ((*id).into(), (*spiffe_id).into())).collect()),
        batches: watch::channel(Vec::new()).0,
        ttl: HOUR,
        gate: None,
    }
}

fn list(entries: Vec<Entry>) -> Option<EntryList> {
    Some(entries.into_iter().map(Arc::new).collect())
}

impl Rig {
    fn start(fake: Arc<Fake>, dir: &std::path::Path, first: Option<EntryList>) -> Self {
        Self::start_at(fake, dir, first, Clock::system())
    }

    fn start_at(fake: Arc<Fake>, dir: &std::path::Path, first: Option<EntryList>, clock: Clock) -> Self {
        let (entries, entries_rx) = watch::channel(first);
        let (trust, trust_rx) = watch::channel(Arc::default());
        let (workloads, workloads_rx) = watch::channel(Arc::<[Workload]>::from([]));
        let own: TrustDomain = "a.example".parse().unwrap();
        let (view_tx, view) = watch::channel(Arc::new(View::empty(own)));
        let setup = Setup {
            keep: Keep::open(&dir.join("svids")).unwrap(),
            clock,
            seed: 1,
            counts: Counts::new(&Metrics::new()),
        };
        let inputs = Inputs { entries: entries_rx, trust: trust_rx, workloads: workloads_rx };
        let drain = Drain::new();
        let cache = Cache::new(fake.clone(), setup, inputs, view_tx);
        let task = tokio::spawn(cache.run(drain.clone()));
        Self { fake, entries, view, drain, task, trust, _workloads: workloads }
    }

    async fn stop(self) {
        self.drain.start();
        self.task.await.unwrap();
    }

    async fn all_valid(&mut self, count: usize) -> Arc<View> {
        until(&mut self.view, |view| view.held.iter().filter(|held| serial(held).is_some()).count() == count).await
    }
}

fn serial(held: &Held) -> Option<String> {
    match &held.holding {
        Holding::Valid(svid) => Some(svid.serial.clone()),
        Holding::Pending | Holding::Failed => None,
    }
}

#[tokio::test]
async fn all_entries_are_minted_ahead_of_demand_in_batches_and_kept_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<_> = (0..120).map(|at| (format!("e{at:03}"), format!("spiffe://a.example/w{at}"))).collect();
    let grants: Vec<_> = ids.iter().map(|(id, spiffe_id)| (id.as_str(), spiffe_id.as_str())).collect();
    let entries: Vec<_> = grants.iter().rev().map(|(id, spiffe_id)| entry(id, spiffe_id, &["unix:uid:0"])).collect();
    let mut rig = Rig::start(Arc::new(fake(&grants)), dir.path(), list(entries));
    let view = rig.all_valid(120).await;
    assert_eq!(*rig.fake.batches.borrow(), [50, 50, 20]);
    assert_eq!(view.held[0].entry.spiffe_id.as_str(), "spiffe://a.example/w119", "the control plane's order");
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_ready_before_the_entries_are_and_an_empty_list_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(Arc::new(fake(&[])), dir.path(), None);
    assert!(!rig.view.borrow().ready);
    rig.entries.send_replace(list(vec![]));
    assert!(until(&mut rig.view, |view| view.ready).await.held.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn a_restart_serves_at_once_what_was_written_down_and_asks_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let web = || list(vec![entry("web", WEB, &["unix:uid:0"])]);
    let mut rig = Rig::start(Arc::new(fake(&[("web", WEB)])), dir.path(), web());
    let before = serial(&rig.all_valid(1).await.held[0]);
    rig.stop().await;
    let silent = Fake { gate: Some(Notify::new()), ..fake(&[]) };
    let rig = Rig::start(Arc::new(silent), dir.path(), web());
    assert_eq!(serial(&rig.view.borrow().held[0]), before, "before anything has run");
    rig.stop().await;
}

#[tokio::test]
async fn an_svid_on_disk_serves_only_the_identity_that_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig =
        Rig::start(Arc::new(fake(&[("web", WEB)])), dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    rig.all_valid(1).await;
    rig.stop().await;
    let silent = Fake { gate: Some(Notify::new()), ..fake(&[]) };
    let other = list(vec![entry("web", "spiffe://a.example/other", &["unix:uid:0"])]);
    let rig = Rig::start(Arc::new(silent), dir.path(), other);
    assert!(matches!(rig.view.borrow().held[0].holding, Holding::Pending));
    rig.stop().await;
}

#[tokio::test]
async fn a_gone_entry_leaves_no_key_behind() {
    let dir = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(dir.path().join("svids")).unwrap().count();
    let mut rig =
        Rig::start(Arc::new(fake(&[("web", WEB)])), dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    rig.all_valid(1).await;
    assert_eq!(files(), 1);
    rig.entries.send_replace(list(vec![]));
    until(&mut rig.view, |view| view.held.is_empty()).await;
    assert_eq!(files(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn rotation_publishes_each_new_svid_once_with_a_new_key_and_never_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let short = Fake { ttl: Duration::from_secs(3), ..fake(&[("web", WEB)]) };
    let mut rig = Rig::start(Arc::new(short), dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    rig.all_valid(1).await;
    let mut keys = Vec::new();
    while keys.len() < 3 {
        let view = rig.view.borrow_and_update().clone();
        let Holding::Valid(svid) = &view.held[0].holding else { panic!("a gap after {} SVIDs", keys.len()) };
        assert!(svid.not_after > Clock::system().now());
        assert!(!keys.contains(&svid.key.pkcs8().to_vec()), "a change that is none, or an old key");
        keys.push(svid.key.pkcs8().to_vec());
        soon(rig.view.changed()).await.unwrap();
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_to_whoever_waits_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(Arc::new(fake(&[])), dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    until(&mut rig.view, |view| view.held.first().is_some_and(|held| matches!(held.holding, Holding::Failed))).await;
    rig.fake.grants.lock().unwrap().insert("web".into(), WEB.into());
    rig.all_valid(1).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let lying = Arc::new(fake(&[("web", "spiffe://a.example/other")]));
    let mut rig = Rig::start(lying, dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    until(&mut rig.view, |view| view.held.first().is_some_and(|held| matches!(held.holding, Holding::Failed))).await;
    rig.stop().await;
}

#[tokio::test]
async fn other_terms_bring_a_new_svid_and_other_selectors_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let web = entry("web", WEB, &["unix:uid:0"]);
    let mut rig = Rig::start(Arc::new(fake(&[("web", WEB)])), dir.path(), list(vec![web.clone()]));
    let first = serial(&rig.all_valid(1).await.held[0]).unwrap();
    let moved = Entry { hint: "x".into(), ..entry("web", WEB, &["unix:uid:1"]) };
    rig.entries.send_replace(list(vec![moved.clone()]));
    let view = until(&mut rig.view, |view| view.held[0].entry.hint == "x").await;
    assert_eq!(serial(&view.held[0]), Some(first.clone()));
    rig.entries.send_replace(list(vec![Entry { ttl_seconds: 60, ..moved }]));
    let view = until(&mut rig.view, |view| serial(&view.held[0]).is_some_and(|serial| serial != first)).await;
    assert_eq!(view.held[0].entry.ttl_seconds, 60);
    assert_eq!(*rig.fake.batches.borrow(), [1, 1]);
    rig.stop().await;
}

/// `count` workloads, each with its grant.
fn many(count: usize) -> (Fake, Option<EntryList>) {
    let ids: Vec<_> = (0..count).map(|at| (format!("e{at:04}"), format!("spiffe://a.example/w{at}"))).collect();
    let grants: Vec<_> = ids.iter().map(|(id, spiffe_id)| (id.as_str(), spiffe_id.as_str())).collect();
    let entries = grants.iter().map(|(id, spiffe_id)| entry(id, spiffe_id, &["unix:uid:0"])).collect();
    (fake(&grants), list(entries))
}

fn tainted(ca: &Ca) -> Arc<Trust> {
    let tainted = Tainted { x509: [ca.key_id()].into(), ..Tainted::default() };
    Arc::new(Trust { tainted: Arc::new(tainted), ..Trust::default() })
}

#[tokio::test]
async fn a_restart_with_a_thousand_workloads_keeps_every_key_and_mints_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, entries) = many(1000);
    let fake = Arc::new(fake);
    let mut rig = Rig::start(fake.clone(), dir.path(), entries.clone());
    let before: Vec<_> = rig.all_valid(1000).await.held.iter().map(serial).collect();
    rig.stop().await;
    fake.batches.send_modify(Vec::clear);
    let began = tokio::time::Instant::now();
    let rig = Rig::start(fake.clone(), dir.path(), entries);
    let took = began.elapsed();
    let after: Vec<_> = rig.view.borrow().held.iter().map(serial).collect();
    assert_eq!(after, before, "served before anything has run");
    rig.stop().await;
    assert_eq!(fake.batches.borrow().iter().sum::<usize>(), 0, "nothing was minted again");
    println!("1,000 SVIDs were read back in {took:?}");
}

#[tokio::test]
async fn fault_021_a_tainted_authority_has_everything_it_signed_replaced_at_once_and_served_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, entries) = many(120);
    let fake = Arc::new(fake);
    let mut rig = Rig::start(fake.clone(), dir.path(), entries);
    rig.all_valid(120).await;
    let old = std::mem::replace(&mut *fake.ca.lock().unwrap(), Arc::new(Ca::new("a.example")));
    let is_old = |held: &Held| match &held.holding {
        Holding::Valid(svid) => is_tainted(&svid.chain, &tainted(&old).tainted),
        Holding::Pending | Holding::Failed => panic!("a gap"),
    };
    fake.batches.send_modify(Vec::clear);
    rig.trust.send_replace(tainted(&old));
    while rig.view.borrow_and_update().held.iter().any(is_old) {
        soon(rig.view.changed()).await.unwrap();
    }
    assert_eq!(fake.batches.borrow().iter().sum::<usize>(), 120, "each once");
    // The same taint once more is no news.
    rig.trust.send_replace(tainted(&old));
    rig.entries.send_modify(|_| {});
    soon(rig.view.changed()).await.unwrap();
    assert_eq!(fake.batches.borrow().iter().sum::<usize>(), 120);
    rig.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_still_signs_by_the_tainted_authority_is_asked_again_and_not_hammered() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(fake(&[("web", WEB)]));
    let old = fake.ca.lock().unwrap().clone();
    let mut rig = Rig::start(fake.clone(), dir.path(), list(vec![entry("web", WEB, &["unix:uid:0"])]));
    let first = serial(&rig.all_valid(1).await.held[0]);
    rig.trust.send_replace(tainted(&old));
    let mut batches = fake.batches.subscribe();
    until(&mut batches, |batches| batches.len() >= 3).await;
    assert_eq!(serial(&rig.view.borrow().held[0]), first, "what is held is no worse");
    *fake.ca.lock().unwrap() = Arc::new(Ca::new("a.example"));
    until(&mut rig.view, |view| serial(&view.held[0]).is_some_and(|serial| Some(serial) != first)).await;
    assert!(batches.borrow().len() < 20, "{:?}", batches.borrow());
    rig.stop().await;
}

#[tokio::test]
async fn a_taint_that_was_heard_before_the_restart_is_acted_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(fake(&[("web", WEB)]));
    let web = || list(vec![entry("web", WEB, &["unix:uid:0"])]);
    let mut rig = Rig::start(fake.clone(), dir.path(), web());
    let before = serial(&rig.all_valid(1).await.held[0]);
    rig.stop().await;
    let old = std::mem::replace(&mut *fake.ca.lock().unwrap(), Arc::new(Ca::new("a.example")));
    let mut rig = Rig::start(fake, dir.path(), web());
    rig.trust.send_replace(tainted(&old));
    until(&mut rig.view, |view| serial(&view.held[0]).is_some_and(|serial| Some(serial) != before)).await;
    rig.stop().await;
}

#[tokio::test]
async fn i_6_an_entry_that_ends_is_gone_at_that_moment_and_its_key_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(now());
    let ending = Entry { expires_at: Some(now() + Duration::from_secs(60)), ..entry("web", WEB, &["unix:uid:0"]) };
    let job = entry("job", "spiffe://a.example/job", &["unix:uid:0"]);
    let fake = fake(&[("web", WEB), ("job", "spiffe://a.example/job")]);
    let mut rig = Rig::start_at(Arc::new(fake), dir.path(), list(vec![job, ending]), clock.clone());
    rig.all_valid(2).await;
    clock.advance(Duration::from_secs(59));
    assert_eq!(rig.view.borrow().held.len(), 2);
    clock.advance(Duration::from_secs(1));
    let view = until(&mut rig.view, |view| view.held.len() == 1).await;
    assert_eq!(view.held[0].entry.id.as_ref(), "job");
    assert_eq!(std::fs::read_dir(dir.path().join("svids")).unwrap().count(), 1);
    rig.stop().await;
}
