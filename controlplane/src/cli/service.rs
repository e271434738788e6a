//! `symbolon service`.

use clap::{Args, Subcommand};
use serde::Serialize;
use symbolon_proto::admin as wire;

use super::client::Client;
use super::failure::{BAD_INPUT, Failure};
use super::output::{self, Output, Table};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(List),
    Endpoints(Endpoints),
}

/// List the services of this mesh and those imported from peers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon service list
  symbolon service list -o json")]
pub struct List {
    #[command(flatten)]
    output: Output,
}

/// Show where a service can be reached: here and at the peers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  symbolon service endpoints payments.shop
  symbolon service endpoints payments.shop -o json")]
pub struct Endpoints {
    /// <service>.<namespace>
    service: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    name: String,
    /// `null`: of this mesh.
    peer: Option<String>,
    export_to: Vec<String>,
    federated_with: Vec<String>,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    id: String,
    address: String,
    identity: String,
    health: String,
    weight: u32,
}

pub(super) async fn run(client: &Client, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => {
            let services = services(client, String::new()).await?;
            output::print(options.output.format, &services, |services| list(services))
        }
        Command::Endpoints(options) => {
            let services = services(client, options.service.clone()).await?;
            if services.is_empty() {
                let what = format!("there is no service {:?}", options.service);
                return Err(Failure::new(BAD_INPUT, what).next("symbolon service list shows all"));
            }
            output::print(options.output.format, &services, |services| endpoints(services))
        }
    }
}

async fn services(client: &Client, service: String) -> Result<Vec<Service>, Failure> {
    let asked = wire::ListServicesRequest { service };
    let listed = client.call(async |mut admin| admin.list_services(asked).await).await?;
    Ok(listed.services.into_iter().map(Service::from).collect())
}

fn list(services: &[Service]) -> String {
    let mut table = Table::new(["NAME", "AT", "ENDPOINTS", "HEALTHY", "EXPORTED TO", "FEDERATED WITH"]);
    for one in services {
        let healthy = one.endpoints.iter().filter(|endpoint| matches!(&*endpoint.health, "healthy" | "unknown"));
        table.row([
            one.name.clone(),
            place(one),
            one.endpoints.len().to_string(),
            healthy.count().to_string(),
            output::joined(&one.export_to),
            output::joined(&one.federated_with),
        ]);
    }
    table.to_string()
}

fn endpoints(services: &[Service]) -> String {
    let mut table = Table::new(["AT", "ID", "ADDRESS", "IDENTITY", "HEALTH", "WEIGHT"]);
    for service in services {
        for one in &service.endpoints {
            let weight = one.weight.to_string();
            let cells = [&place(service), &one.id, &one.address, &one.identity, &one.health, &weight];
            table.row(cells.map(Clone::clone));
        }
    }
    table.to_string()
}

fn place(service: &Service) -> String {
    service.peer.clone().unwrap_or_else(|| "here".to_owned())
}

impl From<wire::Service> for Service {
    fn from(service: wire::Service) -> Self {
        let endpoint = |one: wire::Endpoint| Endpoint {
            id: one.id,
            address: one.address,
            identity: one.identity,
            health: one.health,
            weight: one.weight,
        };
        Self {
            name: service.name,
            peer: (!service.peer.is_empty()).then_some(service.peer),
            export_to: service.export_to,
            federated_with: service.federated_with,
            endpoints: service.endpoints.into_iter().map(endpoint).collect(),
        }
    }
}
