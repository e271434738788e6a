//! The Workload API as foreign clients see it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use spiffe::X509SourceBuilder;
use symbolon_proto::workload::X509svidRequest;
use symbolon_tests::interop::peer::Peer;
use symbolon_tests::mesh::sidecar::{Sidecar, with_header};
use symbolon_tests::mesh::{Mesh, soon};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// SVIDs that rotate so often that a test can see several: 10 s of the lifetime are backdated.
fn short(config: &mut controlplane::app::Config) {
    config.identity.svid_ttl = Duration::from_secs(13);
}

fn unix(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Serials without leading zeros, as each language prints them.
fn serial(der: &[u8]) -> anyhow::Result<String> {
    let (_, leaf) = X509Certificate::from_der(der)?;
    Ok(format!("{:x}", leaf.tbs_certificate.serial))
}

async fn mesh(tweak: fn(&mut controlplane::app::Config)) -> anyhow::Result<(Mesh, Sidecar)> {
    let mesh = Mesh::builder().a(|a| a.tweak = tweak).start().await?;
    mesh.a.entry("n1", "payments").await?;
    let sidecar = mesh.a.sidecar("n1", serde_json::json!([])).await?;
    Ok((mesh, sidecar))
}

/// Whatever our own stream tells, in order: the measure for the others.
async fn told(sidecar: &Sidecar, count: usize) -> anyhow::Result<Vec<String>> {
    let mut answers = sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    let mut serials = Vec::new();
    while serials.len() < count {
        let answer = soon("an SVID", answers.message()).await??.ok_or_else(|| anyhow::anyhow!("the stream ended"))?;
        serials.push(serial(&answer.svids[0].x509_svid)?);
    }
    Ok(serials)
}

/// Each client sees each rotation exactly once, in the same order.
#[tokio::test(flavor = "multi_thread")]
async fn w_2_foreign_clients_see_each_rotation_once() -> anyhow::Result<()> {
    const ROTATIONS: usize = 4;
    let (_mesh, sidecar) = mesh(short).await?;
    let socket = unix(&sidecar.agent());
    let mut go = Peer::go(&["watch", "-socket", &socket])?;
    let mut python = Peer::python("watch_svid.py", &[&sidecar.agent().to_string_lossy()])?;
    let source = X509SourceBuilder::new().endpoint(&socket).build().await?;
    let mut updates = source.updated();

    let by_go = async {
        let mut serials = Vec::new();
        while serials.len() < ROTATIONS {
            let said = go.says().await?;
            serials.extend(said["x509"][0]["serial"].as_str().map(str::to_owned));
        }
        anyhow::Ok(serials)
    };
    let by_python = async {
        let mut serials = Vec::new();
        while serials.len() < ROTATIONS {
            serials.extend(python.says().await?["serial"].as_str().map(str::to_owned));
        }
        anyhow::Ok(serials)
    };
    let by_crate = async {
        let mut serials = vec![serial(source.svid()?.cert_chain()[0].as_ref())?];
        while serials.len() < ROTATIONS {
            soon("an update", updates.changed()).await??;
            serials.push(serial(source.svid()?.cert_chain()[0].as_ref())?);
        }
        anyhow::Ok(serials)
    };
    let (ours, by_go, by_python, by_crate) =
        tokio::try_join!(told(&sidecar, ROTATIONS + 3), by_go, by_python, by_crate)?;
    for (name, seen) in BTreeMap::from([("go-spiffe", by_go), ("py-spiffe", by_python), ("crate spiffe", by_crate)]) {
        // A client may have come later than our own stream; from then on it misses nothing and hears nothing twice.
        let from = ours.iter().position(|serial| *serial == seen[0]);
        let wanted = from.map(|from| &ours[from..]).unwrap_or_default();
        let common = wanted.len().min(seen.len());
        ensure!(common >= 2 && wanted[..common] == seen[..common], "{name} saw {seen:?}, we told {ours:?}");
    }
    Ok(())
}
