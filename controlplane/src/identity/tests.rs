mod authority;
mod authority_faults;
mod authority_life;
mod bundles;
mod csr;
mod entries;
mod feed;
mod minted;
mod nodes;
mod plan;
mod tokens;

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::new_key;
use symbolon_kit::spiffe::verify::Anchors;

use super::*;
use crate::identity::authority::Settings;
use crate::identity::entries::New as NewEntry;

const CA_TTL: Duration = Duration::from_secs(24 * 3600);
const SVID_TTL: Duration = Duration::from_secs(3600);
const NODE_TTL: Duration = Duration::from_secs(12 * 3600);

/// What nodes get, as it is signed: without pool and record.
impl Identity {
    fn renew_node(&self, node: &NodeName, csr: &[u8]) -> Result<Minted, Refusal> {
        self.signed(node, "", csr)
    }

    fn mint_for_entry(&self, node: &NodeName, entry_id: &str, csr: &[u8]) -> Result<Minted, Refusal> {
        self.signed(node, entry_id, csr)
    }
}

/// A control plane's data folder, and its clock.
struct World {
    folder: tempfile::TempDir,
    store: SharedStore,
    clock: Clock,
    config: Config,
}

fn world() -> World {
    world_in(tempfile::tempdir().unwrap())
}

fn world_in(folder: tempfile::TempDir) -> World {
    let store = store::redb::open(&folder.path().join("store.redb")).unwrap();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let config = Config {
        trust_domain: "a.example".parse().unwrap(),
        key_dir: folder.path().join("keys"),
        audit_dir: folder.path().join("audit"),
        minting: mint::Settings::default(),
        ca_ttl: CA_TTL,
        svid_ttl: SVID_TTL,
        node_ttl: NODE_TTL,
        x509pop: None,
        fence: folder.path().join("tokens.fence"),
        refresh_hint: Duration::from_secs(60),
        authority: Settings::default(),
    };
    World { folder, store, clock, config }
}

impl World {
    /// Starts identity as the program does; again, for a restart.
    async fn try_start(&self) -> Result<Identity, Error> {
        let drain = Drain::new();
        let tasks = Tasks::new(drain.clone());
        Identity::start(self.config.clone(), self.store.clone(), self.clock.clone(), &Metrics::new(), &tasks, drain)
            .await
    }

    async fn start(&self) -> Identity {
        self.try_start().await.unwrap()
    }

    /// The key files of X.509 authorities, with their modes.
    fn keys(&self) -> Vec<(PathBuf, u32)> {
        let files = std::fs::read_dir(&self.config.key_dir).unwrap().map(|file| file.unwrap().path());
        let x509 = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("x509-"));
        let mut keys: Vec<_> = x509.map(|path| (path.clone(), mode(&path))).collect();
        keys.sort();
        keys
    }
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What our own bundle verifies.
fn anchors(identity: &Identity) -> Anchors {
    Anchors::new(&identity.bundles.all())
}

/// A CSR that asks for what `change` says.
fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_of(&KeyPair::generate().unwrap(), change)
}

fn csr_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn plain_csr() -> Vec<u8> {
    new_key().unwrap().1
}

/// Joins by a token.
async fn join_with(identity: &Identity, token: &str, csr: &[u8]) -> Result<Minted, Refusal> {
    match identity.attest(attest::Evidence::JoinToken(token.to_owned().into()), csr).await? {
        attest::Progress::Done(admitted) => Ok(admitted.minted),
        attest::Progress::Challenge(_) => panic!("a token is its own proof"),
    }
}

/// Joins by a new token.
async fn join(identity: &Identity, name: &str) -> Result<Minted, Refusal> {
    let token = identity.tokens.create(&node(name), SVID_TTL).await.unwrap().token;
    join_with(identity, &token, &plain_csr()).await
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn new_entry() -> NewEntry {
    NewEntry {
        spiffe_id: "spiffe://a.example/shop".into(),
        node: "node-1".into(),
        selectors: vec!["unix:uid:1000".into()],
        ..NewEntry::default()
    }
}

#[tokio::test]
async fn a_node_joins_renews_and_gets_its_entries() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), SVID_TTL).await.unwrap().token;
    let joined = join_with(&identity, &token, &plain_csr()).await.unwrap();
    assert_eq!(joined.id.as_str(), "spiffe://a.example/symbolon/node/node-1");
    assert_eq!(identity.node_of(&joined.id), Some(node("node-1")));
    assert_eq!(identity.renew_node(&node("node-1"), &plain_csr()).unwrap().id, joined.id);
    let entry = identity.entries.create(new_entry()).await.unwrap();
    let minted = identity.mint_for_entry(&node("node-1"), &entry.id, &plain_csr()).unwrap();
    assert_eq!(minted.id.as_str(), "spiffe://a.example/shop");
}

#[tokio::test]
async fn i_1_a_node_gets_only_its_own_entries() {
    let world = world();
    let identity = world.start().await;
    let entry = identity.entries.create(new_entry()).await.unwrap();
    let mint = |name: &str, id: &str| identity.mint_for_entry(&node(name), id, &plain_csr()).map(|minted| minted.id);
    assert_eq!(mint("node-2", &entry.id), Err(Refusal::NotYourEntry));
    assert_eq!(mint("node-1", "0000000000000000"), Err(Refusal::UnknownEntry));
    assert!(mint("node-1", &entry.id).is_ok());
}

#[tokio::test]
async fn only_ids_of_our_nodes_name_a_node() {
    let identity = world().start().await;
    let of = |id: &str| identity.node_of(&id.parse().unwrap());
    assert_eq!(of("spiffe://a.example/symbolon/node/node-1"), Some(node("node-1")));
    for other in [
        "spiffe://b.example/symbolon/node/node-1",
        "spiffe://a.example/symbolon/node",
        "spiffe://a.example/symbolon/node/node-1/more",
        "spiffe://a.example/symbolon/controlplane/0",
        "spiffe://a.example/node-1",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}
