//! How long a change of a registration takes to its workload: from the operator's call, over the push to the node and the minting
//! there, to the answer on a Workload API stream that was open before.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use symbolon_proto::admin as api;
use symbolon_proto::workload::{X509svidRequest, X509svidResponse};
use tokio::time::Instant;
use tonic::Streaming;

use super::plane::Plane;
use super::sidecar::with_header;
use super::{Mesh, soon};

/// Nobody's uid: these entries are minted for and kept, and served to no one.
const NOBODY: &str = "unix:uid:4000000000";

/// Measures `changes` changes on a node that has `entries` entries already; sorted.
///
/// # Errors
/// If the mesh cannot be built, or a change does not arrive.
pub async fn entry_to_workload(entries: u32, changes: u32) -> anyhow::Result<Vec<Duration>> {
    let mesh = Mesh::builder().start().await?;
    let others = (0..entries).map(|n| identity(&mesh.a, &format!("w{n}"), NOBODY));
    let first = identity(&mesh.a, "first", &mesh.a.own_uid());
    apply(&mesh.a, others.chain([first]).collect()).await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    let mut answers = super::until("the first SVID", async || {
        let mut answers =
            sidecar.workload_api().fetch_x509svid(with_header(X509svidRequest {})).await.ok()?.into_inner();
        answers.message().await.ok().flatten().map(|_| answers)
    })
    .await?;
    let mut took = Vec::new();
    for change in 0..changes {
        let asked = api::CreateIdentityRequest {
            identity: Some(identity(&mesh.a, &format!("new{change}"), &mesh.a.own_uid())),
        };
        let began = Instant::now();
        let made = mesh.a.admin().create_identity(asked).await?.into_inner();
        until_served(&mut answers, |svids| svids.contains(&made.spiffe_id.as_str())).await?;
        took.push(began.elapsed());
        mesh.a.admin().delete_identity(api::DeleteIdentityRequest { entry_id: made.entry_id }).await?;
        until_served(&mut answers, |svids| !svids.contains(&made.spiffe_id.as_str())).await?;
    }
    took.sort();
    Ok(took)
}

/// A registration on node `n1`.
pub fn identity(plane: &Plane, account: &str, selector: &str) -> api::Identity {
    api::Identity {
        spiffe_id: plane.settings.id(account),
        node: "n1".into(),
        selectors: vec![selector.into()],
        ..api::Identity::default()
    }
}

/// Applies registrations as a file; nothing is deleted.
///
/// # Errors
/// If the control plane refuses.
pub async fn apply(plane: &Plane, identities: Vec<api::Identity>) -> anyhow::Result<api::ApplyIdentitiesResponse> {
    let asked = api::ApplyIdentitiesRequest { identities, dry_run: false, prune: false };
    let mut admin = plane.admin().max_decoding_message_size(64 << 20);
    Ok(admin.apply_identities(asked).await?.into_inner())
}

async fn until_served(
    answers: &mut Streaming<X509svidResponse>,
    enough: impl Fn(&[&str]) -> bool,
) -> anyhow::Result<()> {
    loop {
        let answer = soon("an answer", answers.message()).await??.context("the stream goes on")?;
        let ids: Vec<&str> = answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
        if enough(&ids) {
            return Ok(());
        }
    }
}
