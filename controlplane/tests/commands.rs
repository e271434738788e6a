//! The program `symbolon` as a user runs it: exit statuses, what it prints, and that `kill -9` loses nothing acknowledged.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be done fails it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const FILE: &str = r#"
trustDomain: a.example
dataDir: data
listen: {node: "127.0.0.1:0", federation: "127.0.0.1:0", http: "127.0.0.1:0", admin: admin/admin.sock}
services: [{name: payments.shop, exportTo: [b]}]
federatedServices: [{name: payments.shop, peers: [b]}]
peers: [{name: b, trustDomain: b.example}]
"#;

/// A folder in which the program runs; its socket's path is relative, so that it is short.
struct Place {
    folder: tempfile::TempDir,
}

/// A control plane that is killed with its test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("symbolon.yaml"), file).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_symbolon"));
        command.args(line.split(' ')).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SYMBOLON_")) {
            command.env_remove(name);
        }
        command.env("SYMBOLON_ADMIN_SOCKET", "admin/admin.sock");
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command that must end well; what it printed, as JSON.
    fn json(&self, line: &str) -> serde_json::Value {
        let output = self.run(&format!("{line} -o json"));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn serve(&self) -> Serving {
        let serving = self.command("serve --config symbolon.yaml").stderr(Stdio::null()).spawn().unwrap();
        let mut serving = Serving(serving);
        while !self.run("peer list").status.success() {
            assert!(serving.0.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(20));
        }
        serving
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn lint_ends_with_0_65_or_79() {
    let place = Place::new(FILE);
    std::fs::write(place.path("bad.yaml"), FILE.replace("exportTo: [b]", "exportTo: [c]")).unwrap();
    let good = place.run("lint symbolon.yaml");
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), String::new()));
    let bad = place.run("lint symbolon.yaml bad.yaml");
    assert_eq!(bad.status.code(), Some(79));
    let found = text(&bad.stdout);
    assert!(found.starts_with("bad.yaml:5: SYM0007: services[0].exportTo: "), "{found}");
    assert_eq!(place.run("lint none.yaml bad.yaml").status.code(), Some(65));
    assert!(!place.path("data").exists(), "lint does nothing");
}

#[test]
fn a_bad_file_binds_no_port_and_touches_nothing() {
    for (from, to, why) in [
        ("trustDomain:", "trustDomian:", "symbolon.yaml:2: SYM0001: unknown field \"trustDomian\"; did you mean"),
        ("exportTo: [b]", "exportTo: [c]", "SYM0007"),
    ] {
        let place = Place::new(&FILE.replacen(from, to, 1));
        let refused = place.run("serve --config symbolon.yaml");
        assert_eq!(refused.status.code(), Some(65));
        let said = text(&refused.stderr);
        assert!(said.contains("nothing was started") && said.contains(why), "{said}");
        assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_bad_override_names_its_variable() {
    let place = Place::new(FILE);
    let mut command = place.command("serve --config symbolon.yaml");
    let refused = command.env("SYMBOLON_IDENTITY__SVID_TTL", "soon").output().unwrap();
    assert_eq!(refused.status.code(), Some(65));
    assert!(text(&refused.stderr).contains("environment variable SYMBOLON_IDENTITY__SVID_TTL"));
}

#[test]
fn usage_and_an_absent_control_plane_have_their_own_statuses() {
    let place = Place::new(FILE);
    assert_eq!(place.run("peer").status.code(), Some(64));
    assert_eq!(place.run("--help").status.code(), Some(0));
    let absent = place.run("token create --node n1");
    assert_eq!(absent.status.code(), Some(69));
    assert!(text(&absent.stderr).contains("is `symbolon serve` running?"));
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let place = Place::new(FILE);
    let mut serving = place.serve();
    let token = place.json("token create --node n1");
    assert_eq!(token["spiffeId"], "spiffe://a.example/symbolon/node/n1");
    let id = "spiffe://a.example/ns/shop/sa/payments";
    place.json(&format!("identity create {id} --node n1 --selector unix:uid:1000 --ttl 2h"));
    let before = (place.json("identity list"), place.json("bundle show"));
    assert_eq!(before.0[0]["spiffeId"], id);
    assert_eq!(before.0[0]["ttlSeconds"], 7200);
    serving.0.kill().unwrap(); // SIGKILL
    serving.0.wait().unwrap();
    assert!(place.path("admin/admin.sock").exists(), "it could not tidy up");
    let _serving = place.serve();
    assert_eq!((place.json("identity list"), place.json("bundle show")), before);
}

#[test]
fn commands_print_tables_json_yaml_and_the_bundle_document() {
    let place = Place::new(FILE);
    let _serving = place.serve();
    assert!(text(&place.run("peer list").stdout).starts_with("NAME   TRUST DOMAIN   STATE"));
    assert_eq!(place.json("peer list")[0]["state"], "PENDING");
    assert!(text(&place.run("peer list -o yaml").stdout).contains("trustDomain: b.example"));
    let status = place.run("peer status b");
    assert_eq!(status.status.code(), Some(1), "a link that is not LIVE is a failed check");
    let jwks: serde_json::Value = serde_json::from_slice(&place.run("bundle show -o spiffe").stdout).unwrap();
    assert_eq!(jwks["keys"][0]["use"], "x509-svid");
    assert_eq!(place.json("service list")[0]["name"], "payments.shop");
    assert_eq!(place.json("rollout get payments.shop")["phase"], "Idle");
    assert!(text(&place.run("rollout get payments.shop").stdout).contains("└── payments.shop.b"));
    assert_eq!(place.json("proxy list"), serde_json::json!([]));
    assert!(!place.json("peer invite b")["token"].as_str().unwrap().is_empty());
    for (line, status) in [
        ("peer invite nobody", 65),
        ("peer accept b nonsense", 65),
        ("identity create spiffe://b.example/x --node n1 --selector unix:uid:1", 65),
        ("identity create spiffe://a.example/symbolon/x --node n1 --selector unix:uid:1", 65),
        ("identity create spiffe://a.example/x --node n1 --selector everything", 65),
        ("token create --node UPPER", 65),
        ("bundle show c.example", 1),
        ("service endpoints nothing.here", 65),
        ("rollout get nothing.here", 1),
        ("rollout resume payments.shop", 1),
    ] {
        let refused = place.run(line);
        assert_eq!(refused.status.code(), Some(status), "{line}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).starts_with("symbolon: "), "{line}");
    }
}

#[test]
fn a_file_of_identities_is_applied_and_explained() {
    let place = Place::new(FILE);
    let _serving = place.serve();
    let id = |name: &str| format!("spiffe://a.example/ns/shop/sa/{name}");
    let file = format!(
        "- spiffeId: {}\n  node: n1\n  selectors: [\"unix:uid:1000\"]\n- spiffeId: {}\n  node: n1\n  selectors: \
         [\"unix:uid:1001\"]\n  federatesWith: {{all: true, except: [b.example]}}\n",
        id("payments"),
        id("ledger")
    );
    std::fs::write(place.path("all.yaml"), &file).unwrap();
    let dry = place.run("identity apply -f all.yaml --dry-run --exit-code");
    assert_eq!(dry.status.code(), Some(1), "there are differences");
    assert!(text(&dry.stdout).ends_with("2 created, 0 changed, 0 deleted, 0 unchanged (dry run: nothing was done)\n"));
    assert_eq!(place.json("identity list"), serde_json::json!([]));
    assert_eq!(place.json("identity apply -f all.yaml")["created"].as_array().unwrap().len(), 2);
    // What is listed can be applied, and is what is there.
    std::fs::write(place.path("listed.yaml"), place.run("identity list -o yaml").stdout).unwrap();
    let same = place.run("identity apply -f listed.yaml --prune --exit-code");
    assert_eq!(
        (same.status.code(), text(&same.stdout)),
        (Some(0), "0 created, 0 changed, 0 deleted, 2 unchanged\n".to_owned())
    );
    for (wrong, why) in [
        (
            file.replace("unix:uid:1001", "unix:uid:root"),
            "wrong.yaml:4: entry 2 (spiffe://a.example/ns/shop/sa/ledger): ",
        ),
        (
            file.replace("federatesWith", "federateswith"),
            "wrong.yaml:7:3: unknown field \"federateswith\"; did you mean",
        ),
        (file.replace("node: n1", "node: n1\n  ttlSeconds: 0"), "wrong.yaml:1: a lifetime of 0 seconds"),
    ] {
        std::fs::write(place.path("wrong.yaml"), wrong).unwrap();
        let refused = place.run("identity apply -f wrong.yaml --prune");
        assert_eq!(refused.status.code(), Some(65), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(why), "{}", text(&refused.stderr));
    }
    let denied = place.run("identity explain --node n1 --selector unix:uid:7");
    assert_eq!(denied.status.code(), Some(1));
    assert!(text(&denied.stdout).contains("gets no identity"), "{}", text(&denied.stdout));
    assert!(text(&denied.stdout).contains("the caller has unix:uid:7, the entry wants unix:uid:1000"));
    let granted = place.json("identity explain --node n1 --selector unix:uid:1000");
    assert_eq!(granted["granted"][0]["spiffeId"], id("payments"));
    let entry = granted["granted"][0]["entryId"].as_str().unwrap().to_owned();
    assert_eq!(place.json(&format!("identity delete {entry}"))[0]["entryId"], entry);
    assert_eq!(place.run(&format!("identity delete {entry}")).status.code(), Some(1));
    let listed = place.json("identity list --selector unix:uid:1001 --node n1");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let pruned = place.run("identity apply -f /dev/null --prune");
    assert_eq!(pruned.status.code(), Some(65), "a file that names nothing prunes nothing");
}

#[test]
fn sigterm_stops_in_order_and_tidies_up() {
    let place = Place::new(FILE);
    let mut serving = place.serve();
    let pid = nix::unistd::Pid::from_raw(serving.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(serving.0.wait().unwrap().success());
    assert!(!place.path("admin/admin.sock").exists());
    assert!(Path::new(&place.path("data/store.redb")).exists());
}
