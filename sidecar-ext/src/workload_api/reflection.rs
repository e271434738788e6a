//! gRPC reflection at the agent socket (SPIFFE_Workload_Endpoint.md §7): what there is to call. It holds nothing of the node's, so it
//! asks for no header; each user's share of the connections bounds it.

use symbolon_proto::WORKLOAD_DESCRIPTORS;
use tonic::service::Routes;
use tonic_reflection::server::Builder;

/// Adds it, in the version of today and in the one that older tools speak.
///
/// # Errors
/// If the definitions that we were built with cannot be read.
pub fn add(routes: Routes) -> anyhow::Result<Routes> {
    let builder = || Builder::configure().register_encoded_file_descriptor_set(WORKLOAD_DESCRIPTORS);
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
