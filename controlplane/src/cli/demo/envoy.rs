//! What an Envoy says of itself, read from its admin interface over one connection that stays open.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A plain HTTP/1.1 client for one address; connects when it must.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An Envoy's admin interface.
#[derive(Debug)]
pub struct Admin(Http);

// === impl Http ===

impl Http {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Status and body; any failure closes the connection.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn call(&mut self, method: Method, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), self.exchange(method, path)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.connection = None;
                Err(error)
            }
            Err(_) => {
                self.connection = None;
                bail!("{}{path} did not answer within 5 s", self.address)
            }
        }
    }

    async fn exchange(&mut self, method: Method, path: &str) -> anyhow::Result<(u16, String)> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                let stream = TcpStream::connect(self.address).await.with_context(|| format!("{}", self.address))?;
                stream.set_nodelay(true)?;
                let (sender, serve) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(serve);
                sender
            }
        };
        connection.ready().await?;
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Full::default())?;
        let response = connection.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

// === impl Admin ===

impl Admin {
    pub fn new(address: SocketAddr) -> Self {
        Self(Http::new(address))
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<String> {
        let (status, body) = self.0.call(Method::GET, path).await?;
        if status != 200 {
            bail!("{path} answered {status}");
        }
        Ok(body)
    }

    /// Whether it serves.
    pub async fn is_ready(&mut self) -> bool {
        self.get("/ready").await.is_ok()
    }

    /// Names of the active listeners.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn listeners(&mut self) -> anyhow::Result<Vec<String>> {
        let listing = self.get("/listeners").await?;
        Ok(listing.lines().filter_map(|line| line.split_once("::")).map(|(name, _)| name.to_owned()).collect())
    }

    /// Whether `cluster` has a host at `address`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn has_host(&mut self, cluster: &str, address: SocketAddr) -> anyhow::Result<bool> {
        let start = format!("{cluster}::{address}::");
        Ok(self.get("/clusters").await?.lines().any(|line| line.starts_with(&start)))
    }

    /// Serial numbers of the leaf certificates that it presents.
    ///
    /// # Errors
    /// If it does not answer in the form that Envoy documents.
    pub async fn serials(&mut self) -> anyhow::Result<Vec<String>> {
        let certs: Value = serde_json::from_str(&self.get("/certs").await?)?;
        let chains = certs["certificates"].as_array().cloned().unwrap_or_default();
        let leaves = chains.iter().filter_map(|certificate| certificate["cert_chain"][0]["serial_number"].as_str());
        let mut serials: Vec<String> = leaves.map(str::to_owned).collect();
        serials.sort();
        serials.dedup();
        Ok(serials)
    }

    /// The weights in force for `host`: RDS of the config dump, overlaid with what `/runtime` says of their keys; in the order of the
    /// clusters.
    ///
    /// # Errors
    /// If there is no such virtual host, or it has no weighted clusters.
    pub async fn weights(&mut self, host: &str) -> anyhow::Result<Vec<u32>> {
        let dump: Value = serde_json::from_str(&self.get("/config_dump?resource=dynamic_route_configs").await?)?;
        let runtime: Value = serde_json::from_str(&self.get("/runtime").await?)?;
        weights(&dump, &runtime, host).with_context(|| format!("no weighted clusters for {host} in the config dump"))
    }

    /// Counters whose name contains `filter`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn counters(&mut self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = self.get(&format!("/stats?usedonly&filter={filter}")).await?;
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }
}

fn weights(dump: &Value, runtime: &Value, host: &str) -> Option<Vec<u32>> {
    let hosts = dump["configs"]
        .as_array()?
        .iter()
        .flat_map(|config| config["route_config"]["virtual_hosts"].as_array().into_iter().flatten());
    let host = hosts
        .into_iter()
        .find(|one| one["domains"].as_array().is_some_and(|domains| domains.iter().any(|domain| domain == host)))?;
    let weighted = host["routes"].as_array()?.iter().find_map(|route| {
        let weighted = &route["route"]["weighted_clusters"];
        weighted.is_object().then_some(weighted)
    })?;
    let prefix = weighted["runtime_key_prefix"].as_str();
    let clusters = weighted["clusters"].as_array()?.iter().map(|cluster| {
        let key = prefix.map(|prefix| format!("{prefix}.{}", cluster["name"].as_str().unwrap_or_default()));
        let over = key.and_then(|key| runtime["entries"][key]["final_value"].as_str()?.parse().ok());
        // protobuf's JSON leaves a weight of 0 inside its wrapper as it is, but a missing one means 0 as well
        over.unwrap_or_else(|| cluster["weight"].as_u64().and_then(|w| u32::try_from(w).ok()).unwrap_or(0))
    });
    Some(clusters.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn weights_are_rds_overlaid_with_runtime() {
        let dump = |prefix: Value| {
            json!({"configs": [{"route_config": {"virtual_hosts": [
                {"domains": ["ledger.shop"], "routes": [{"route": {"cluster": "ledger.shop"}}]},
                {"domains": ["payments.shop", "payments.shop:*"], "routes": [{"route": {"weighted_clusters": {
                    "runtime_key_prefix": prefix,
                    "clusters": [{"name": "payments.shop", "weight": 9750}, {"name": "payments.shop.b", "weight": 250}],
                }}}]},
            ]}}]})
        };
        let runtime = json!({"entries": {"w.payments.shop": {"final_value": "7500"}, "w.payments.shop.b": {"final_value": "2500"}}});
        assert_eq!(weights(&dump(Value::Null), &runtime, "payments.shop"), Some(vec![9750, 250]));
        assert_eq!(weights(&dump(json!("w")), &runtime, "payments.shop"), Some(vec![7500, 2500]));
        assert_eq!(weights(&dump(json!("w")), &runtime, "ledger.shop"), None);
    }
}
