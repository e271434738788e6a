//! Foreign clients of what we serve.

use std::time::Duration;

use controlplane::cli::demo::plan::{CHECKOUT, Side};
use symbolon_proto::admin::{CreateIdentityRequest, Identity};
use symbolon_tests::{STRAIGHT_UP, Scenario, repository, run};

/// py-spiffe fetches an SVID from the sidecar, once an entry matches its interpreter.
#[tokio::test(flavor = "multi_thread")]
async fn py_spiffe_fetches_an_svid() -> anyhow::Result<()> {
    let mut scenario = Scenario::new("py-spiffe", 39, STRAIGHT_UP)?;
    scenario.acts.stage.start_control_plane(Side::A)?;
    scenario.acts.stage.control_plane_ready(Side::A).await?;
    scenario.acts.start_nodes(&[CHECKOUT]).await?;
    let python = which_python().await?;
    let identity = Identity {
        spiffe_id: "spiffe://a.example/ns/shop/sa/python".into(),
        node: CHECKOUT.name.into(),
        selectors: vec![format!("unix:path:{python}")],
        ..Default::default()
    };
    scenario.acts.stage.admin(Side::A).create_identity(CreateIdentityRequest { identity: Some(identity) }).await?;
    let socket = repository().join(scenario.acts.stage.plan.node_dir(&CHECKOUT)).join("agent.sock");
    let script = repository().join("tests/peers/fetch_svid.py");
    let args = [script.to_string_lossy().into_owned(), socket.to_string_lossy().into_owned()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, out, err) = run(std::path::Path::new(&python), &args, Duration::from_secs(30)).await?;
    anyhow::ensure!(code == 0, "exit {code}: {out}{err}");
    anyhow::ensure!(out.trim() == "spiffe://a.example/ns/shop/sa/python", "{out}");
    Ok(())
}

/// The interpreter's real path, as the kernel knows the process: launchers and links are not it.
async fn which_python() -> anyhow::Result<String> {
    let code = "import os; print(os.readlink('/proc/self/exe'))";
    let (status, out, err) = run(std::path::Path::new("python3"), &["-c", code], Duration::from_secs(20)).await?;
    anyhow::ensure!(status == 0, "{err}");
    Ok(out.trim().to_owned())
}
