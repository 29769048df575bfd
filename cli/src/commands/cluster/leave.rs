//! `berth cluster leave`: takes this machine out of its cluster.
//!
//! ```text
//!   drain ──▶ Node removed, certificates refused ──▶ process ended ──▶ pods, links, files gone
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cri::service::CriService;
use berth_cri::v1;
use berth_scheduler::pod::volumes::teardown::remove_volumes;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::join::{self, LeaveAnswer, LeaveRequest};
use berth_scheduler::trust::servers::Servers;
use berth_scheduler::trust::tls::Shown;
use berth_scheduler::trust::{TrustError, files};
use clap::Args;

use super::membership::{self, Standing};
use super::need_root;
use super::nodes::{connect_as_node, servers};
use crate::cluster::file::NodeFile;
use crate::cluster::parts::{known_servers, remove_network};
use crate::cluster::{ConfigArgument, Places, process};
use crate::error::{Context, Error, Result};
use crate::node;
use crate::output::print_line;
use crate::settings::Settings;
use crate::workers::list_workers;

/// `berth cluster leave`.
#[derive(Debug, Args)]
pub struct LeaveArguments {
    /// How long pods may take to go elsewhere, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
    /// Go even if pods are left here or no server answers
    #[arg(long)]
    pub force: bool,
    /// Go even if the cluster's only memory is here, and end the cluster by that
    #[arg(long)]
    pub destroy_cluster: bool,
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Leaves; nothing of the cluster is on this machine afterwards.
///
/// # Errors
///
/// The machine holds the cluster's memory, pods do not go, or no server answers.
pub async fn run(settings: &Settings, arguments: &LeaveArguments) -> Result<u8> {
    need_root()?;
    let places = Places::new(settings, &arguments.config);
    let file = match membership::observe(&places)? {
        Standing::Member(file) => Some(*file),
        Standing::Begun if arguments.force => NodeFile::read(&places.config).unwrap_or_default(),
        Standing::Begun => {
            return Err(Error::new(
                "an init or a join was begun here and has not ended; 'berth cluster leave --force' takes it back",
            ));
        }
        Standing::Stranger => return Err(Error::new("this machine is in no cluster")),
    };
    if let Some(file) = &file {
        refuse_only_memory(file, arguments)?;
        refuse_last_server(&places, file, arguments).await?;
        if !arguments.destroy_cluster {
            depart(&places, file, arguments).await?;
        }
    }
    process::stop(settings, &places, Duration::from_secs(30)).await?;
    remove_pods(settings).await?;
    if let Some(file) = &file {
        remove_network(settings, file).await?;
    }
    remove_pod_files(settings)?;
    remove_files(&places)?;
    if let Some(server) = file.as_ref().and_then(|file| file.server.as_ref())
        && arguments.destroy_cluster
        && server.store != "embedded"
    {
        print_line(&format!(
            "What the cluster had in {} is there still: 'etcdctl del --prefix /berth/' removes it.",
            server.store
        ))?;
    }
    print_line("This machine is in no cluster any more.")?;
    Ok(0)
}

/// The last server of a cluster on etcd holds the last key of its authority.
async fn refuse_last_server(
    places: &Places,
    file: &NodeFile,
    arguments: &LeaveArguments,
) -> Result<()> {
    if file.server.is_none() || arguments.destroy_cluster {
        return Ok(());
    }
    let asked = async { servers(&connect_as_node(places, file)?).await };
    let alive = match tokio::time::timeout(Duration::from_secs(30), asked).await {
        Ok(Ok(alive)) => alive,
        // Nobody answers: whoever is told next says so.
        _ => return Ok(()),
    };
    if alive.nodes.iter().any(|node| *node != file.name) {
        return Ok(());
    }
    Err(Error::new(
        "no other server of this cluster is alive, and without one there is nobody who serves it and nobody who has its authority's key. Let another server join or come back first; to end the cluster, let the other nodes leave and then add --destroy-cluster; nothing was changed",
    ))
}

fn refuse_only_memory(file: &NodeFile, arguments: &LeaveArguments) -> Result<()> {
    let embedded = file
        .server
        .as_ref()
        .is_some_and(|server| server.store == "embedded");
    if !embedded || arguments.destroy_cluster {
        return Ok(());
    }
    Err(Error::new(
        "the cluster's only memory is on this machine: without it there is no cluster. To end the cluster, let the other nodes leave and then add --destroy-cluster; nothing was changed",
    ))
}

/// Tells the cluster, and waits until the pods have gone.
async fn depart(places: &Places, file: &NodeFile, arguments: &LeaveArguments) -> Result<()> {
    let attempt = "tell the cluster that this node leaves";
    let credential = Credential::read(&places.node_pki(), "node").context(attempt)?;
    let Some(credential) = credential else {
        return Ok(());
    };
    let shown = Shown::new(credential).context(attempt)?;
    let servers = known_servers(places, file);
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let mut told = 0;
    loop {
        let answer = match ask(&servers, &shown, false).await {
            Ok(answer) => answer,
            // Removed by somebody else already: nothing is left to tell.
            Err(TrustError::Join(join::JoinError::Refused { status: 401, .. })) => return Ok(()),
            Err(error) if arguments.force => {
                eprintln!(
                    "berth: {attempt}: {}; its Node stays until 'berth delete node {}'",
                    berth_runtime::causes::chain(&error),
                    file.name
                );
                return Ok(());
            }
            Err(error) => {
                return Err(error).context(format!("{attempt} (--force leaves without it)"));
            }
        };
        if answer.pods.is_empty() || (arguments.force && Instant::now() > deadline) {
            break;
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "pods are still here after {} seconds: {}; the node takes no new ones; --force leaves all the same, 'berth uncordon {}' takes it back",
                arguments.timeout,
                answer.pods.join(", "),
                file.name
            )));
        }
        if answer.pods.len() != told {
            told = answer.pods.len();
            eprintln!("berth: waiting for {told} pods to go elsewhere");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ask(&servers, &shown, true).await.context(attempt)?;
    Ok(())
}

async fn ask(
    servers: &Servers,
    shown: &Arc<Shown>,
    finish: bool,
) -> std::result::Result<LeaveAnswer, TrustError> {
    let mut outcome = Err(TrustError::Certificate {
        attempt: "find a server",
        reason: "none is known".to_owned(),
    });
    for server in servers.known() {
        outcome = join::leave(server, shown, &LeaveRequest { finish }).await;
        match &outcome {
            Ok(_) | Err(TrustError::Join(join::JoinError::Refused { .. })) => break,
            Err(_) => {}
        }
    }
    outcome
}

/// Removes what the agent made here: pods of the cluster, and no others.
async fn remove_pods(settings: &Settings) -> Result<()> {
    let engine = node::open(settings).await?;
    let attempt = "list the cluster's pods here";
    let listed = engine
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await
        .context(attempt)?;
    // Pods of `berth run` have a worker's files; the agent needs none.
    let own = list_workers(&settings.workers_dir())?;
    for sandbox in listed.items {
        let metadata = sandbox.metadata.unwrap_or_default();
        if own.contains(&(metadata.namespace, metadata.name)) {
            continue;
        }
        let id = sandbox.id;
        let attempt = format!("remove pod {id}");
        let pod_sandbox_id = id.clone();
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id };
        engine
            .stop_pod_sandbox(stop)
            .await
            .context(attempt.clone())?;
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
        engine.remove_pod_sandbox(remove).await.context(attempt)?;
    }
    Ok(())
}

/// Volumes first: mounts are in them, and what is mounted is not ours to remove.
fn remove_pod_files(settings: &Settings) -> Result<()> {
    let agent = settings.data_dir.join("agent");
    let attempt = "remove the files of the cluster's pods";
    let volumes = match std::fs::read_dir(agent.join("volumes")) {
        Ok(entries) => entries
            .collect::<std::io::Result<Vec<_>>>()
            .context(attempt)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(attempt),
    };
    for pod in volumes {
        remove_volumes(&pod.path()).context(attempt)?;
    }
    for rest in ["pods", "logs"] {
        files::remove(&agent.join(rest)).context(attempt)?;
    }
    // The range that the cluster had given to this node's pods is another's soon.
    files::remove(&settings.data_dir.join("pod-cidr.json")).context(attempt)?;
    Ok(())
}

fn remove_files(places: &Places) -> Result<()> {
    let attempt = "remove what was of the cluster";
    files::remove(&places.config).context(attempt)?;
    files::remove(&places.server).context(attempt)?;
    files::remove(&places.node).context(attempt)
}
