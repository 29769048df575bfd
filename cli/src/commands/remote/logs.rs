//! `berth logs --cluster`: what containers of the cluster wrote.

use futures::TryStreamExt as _;
use futures::io::AsyncBufReadExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::parse_target;
use crate::amounts::read_moment;
use crate::cluster::api::{connect, words};
use crate::commands::logs::{Lines, LogsArguments};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

/// Prints the log of one container; of all where there are several and none was named.
///
/// # Errors
///
/// No such pod or container, or its node does not answer.
pub async fn run(settings: &Settings, arguments: &LogsArguments) -> Result<u8> {
    let client = connect(settings, &arguments.remote.which).await?;
    let namespace = match &arguments.remote.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let (name, container) = parse_target(&arguments.target);
    let container = arguments.container.as_deref().or(container);
    let containers = match container {
        Some(container) => vec![container.to_owned()],
        None => containers(&pods, name).await?,
    };
    let several = containers.len() > 1 || arguments.prefix;
    let since = arguments
        .since
        .as_deref()
        .map(|text| read_moment(text, Timestamp::now()));
    let since = since
        .transpose()
        .map_err(|reason| Error::new(format!("--since: {reason}")))?;
    let follow = containers.iter().map(|container| {
        let parameters = LogParams {
            container: Some(container.clone()),
            follow: arguments.follow,
            previous: arguments.previous,
            timestamps: arguments.timestamps,
            tail_lines: match arguments.tail {
                Lines::All => None,
                Lines::Last(lines) => i64::try_from(lines).ok(),
            },
            since_time: since,
            ..LogParams::default()
        };
        let prefix = several.then(|| format!("{container} | "));
        print(&pods, name, parameters, prefix.unwrap_or_default())
    });
    if arguments.follow {
        futures::future::try_join_all(follow).await?;
    } else {
        for one in follow {
            one.await?;
        }
    }
    Ok(0)
}

async fn containers(pods: &Api<Pod>, name: &str) -> Result<Vec<String>> {
    let pod = pods
        .get(name)
        .await
        .map_err(|error| Error::new(format!("read pod {name}: {}", words(&error))))?;
    let spec = pod.spec.unwrap_or_default();
    Ok(spec.containers.into_iter().map(|one| one.name).collect())
}

async fn print(pods: &Api<Pod>, name: &str, parameters: LogParams, prefix: String) -> Result<()> {
    let attempt = format!(
        "read the log of {name}/{}",
        parameters.container.as_deref().unwrap_or_default()
    );
    let stream = pods
        .log_stream(name, &parameters)
        .await
        .map_err(|error| Error::new(format!("{attempt}: {}", words(&error))))?;
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await.context(attempt.clone())? {
        print_line(&format!("{prefix}{line}"))?;
    }
    Ok(())
}
