//! What is in every cluster from its first moment, beside what the API makes itself: the
//! Service by which pods reach the API.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::{ServerConfig, ServerError};

/// Makes what is missing; what is there stays.
///
/// # Errors
///
/// The API refuses, or its store does not answer.
pub async fn found(client: &kube::Client, config: &ServerConfig) -> Result<(), ServerError> {
    make_service(client, config).await
}

/// The Service `kubernetes`: the first address of the range of Services. Which servers are
/// behind it the leader tells ([`super::roster`]).
async fn make_service(client: &kube::Client, config: &ServerConfig) -> Result<(), ServerError> {
    let Some(address) = first_address(&config.layout.service_range) else {
        return Ok(());
    };
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "clusterIP": address,
            "ports": [{
                "name": "https", "protocol": "TCP", "port": 443,
                "targetPort": config.listen.port(),
            }],
        },
    });
    let services: Api<Service> = Api::default_namespaced(client.clone());
    if services
        .get_opt("kubernetes")
        .await
        .map_err(found_failed)?
        .is_none()
    {
        let service = serde_json::from_value(wanted)
            .map_err(|error| found_failed(kube::Error::SerdeError(error)))?;
        ignore_existing(services.create(&PostParams::default(), &service).await)?;
    }
    Ok(())
}

/// The first address of a range, `10.211.0.1` of `10.211.0.0/16`.
pub fn first_address(range: &str) -> Option<IpAddr> {
    let (network, _) = range.split_once('/')?;
    match network.parse().ok()? {
        IpAddr::V4(network) => Some(IpAddr::V4((u32::from(network) + 1).into())),
        IpAddr::V6(network) => Some(IpAddr::V6((u128::from(network) + 1).into())),
    }
}

fn ignore_existing<T>(made: Result<T, kube::Error>) -> Result<(), ServerError> {
    match made {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        outcome => outcome.map(drop).map_err(found_failed),
    }
}

fn found_failed(error: kube::Error) -> ServerError {
    ServerError::Found(Box::new(error))
}
