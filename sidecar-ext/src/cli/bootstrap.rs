//! `symbolon-sidecar bootstrap`.

use std::path::Path;

use symbolon_kit::config::environment;
use symbolon_proto::ids::SpiffeId;

use super::{BootstrapArgs, BootstrapOutput, Failure, print};
use crate::bootstrap::{self, Format, Inputs};
use crate::config;
use crate::keep::Keep;
use crate::svid::pem;

pub(super) fn bootstrap(args: &BootstrapArgs) -> Result<(), Failure> {
    let config = config::load(&args.config, environment()).map_err(|why| Failure::new(Failure::DATA, why))?;
    let wanted = args.identity.as_deref().map(SpiffeId::workload).transpose();
    let wanted = wanted.map_err(|why| Failure::new(Failure::USAGE, anyhow::anyhow!("--identity: {why}")))?;
    let identity = bootstrap::choose(config.workloads.iter().map(|workload| &workload.identity), wanted.as_ref())
        .map_err(|why| Failure::new(Failure::USAGE, why))?;
    let node = args.node.clone().or_else(|| node_name(&config.data_dir)).unwrap_or_else(|| "node".into());
    let inputs = Inputs {
        identity,
        node,
        agent_socket: config.sockets.agent,
        xds_socket: config.sockets.xds,
        admin: args.admin,
    };
    let format = match args.output {
        BootstrapOutput::Yaml => Format::Yaml,
        BootstrapOutput::Json => Format::Json,
    };
    let text = bootstrap::render(&inputs, format).map_err(|why| Failure::new(Failure::DATA, why))?;
    if let (BootstrapOutput::Yaml, Some(workers)) = (args.output, config.envoy_concurrency) {
        print(&format!("# Run: envoy -c THIS_FILE --concurrency {workers}\n"))?;
    }
    print(&text)
}

/// The name that the node joined by, if this user may read it.
fn node_name(data_dir: &Path) -> Option<String> {
    if !data_dir.exists() {
        return None; // opening would make it
    }
    let text = Keep::open(data_dir).ok()?.load(crate::upstream::NODE_FILE).ok()??;
    let svid = pem::decode(&text).ok()?;
    svid.id.path().rsplit('/').next().map(str::to_owned)
}
