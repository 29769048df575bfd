//! `berth worker`: the process behind `berth run -d`. Not for people.

use std::io::Read;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::run::attend::identity;
use super::run::audience::{Audience, Starter};
use super::run::crew::{Crew, Ended, Patience, ShowReady, Urgency};
use super::run::detached::WorkerOrder;
use super::run::lookout::{Lookout, Output};
use super::run::watched::Watched;
use crate::error::{Context, ENGINE_FAILED, Result};
use crate::node;
use crate::settings::Settings;
use crate::workers::WorkerFiles;

/// Leaves the terminal and its session, reads the order from standard input,
/// and looks after it to the end.
///
/// # Errors
///
/// The order cannot be read, or a pod cannot be run. The starter is told too.
pub fn run(settings: &Settings) -> Result<u8> {
    // A session of its own has no terminal: neither Ctrl-C there nor its end
    // reaches this process. It fails only for one that leads a group already.
    rustix::process::setsid().context("leave the session")?;
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .context("read the order")?;
    let order: WorkerOrder = serde_json::from_slice(&text).context("read the order")?;
    let starter: Arc<dyn Audience> = Arc::new(Starter);
    let names: Vec<(String, String)> = names(&order);
    let outcome = node::block_on(look_after(settings, order, Arc::clone(&starter)));
    for (namespace, name) in names {
        let files = WorkerFiles::new(&settings.workers_dir(), &namespace, &name);
        // Of what never came to be a pod, or was removed, the log alone is left.
        if files.worker().is_none() && files.read_request()?.is_none() {
            files.remove()?;
        }
    }
    match outcome {
        Ok(ended) => {
            // Of a pod its starter was told when it happened; of a job's pods
            // some may fail, and this is how the job itself did.
            if !ended.failures.is_empty() {
                starter.failed("", &ended.failures.join("\n"), 1);
            }
            Ok(0)
        }
        Err(error) => {
            starter.failed("", &error.chain(), ENGINE_FAILED);
            Err(error)
        }
    }
}

fn names(order: &WorkerOrder) -> Vec<(String, String)> {
    let jobs = order.jobs.iter().map(|job| {
        let namespace = job.metadata.namespace.clone().unwrap_or_default();
        (namespace, job.metadata.name.clone().unwrap_or_default())
    });
    order.pods.iter().map(identity).chain(jobs).collect()
}

async fn look_after(
    settings: &Settings,
    order: WorkerOrder,
    audience: Arc<dyn Audience>,
) -> Result<Ended> {
    let (felt, urgency) = watch::channel(Urgency::None);
    tokio::spawn(feel(felt));
    let engine = node::open(settings).await?;
    let lookout = Arc::new(Lookout::new(
        Arc::clone(&engine),
        settings.run_dir.clone(),
        Arc::clone(&audience),
        Output::Files,
    ));
    let crew = Arc::new(Crew {
        settings: settings.clone(),
        service: Arc::new(Watched {
            node: engine.clone(),
            onlooker: lookout,
        }),
        changes: Some(node::changes(&engine)),
        audience,
        config_maps: order.config_maps,
        secrets: order.secrets,
        remove: order.remove,
        patience: Patience::None,
        show_ready: ShowReady::Yes,
        urgency,
    });
    crew.run(order.pods, order.jobs).await
}

/// The first signal stops in order, the next kills.
async fn feel(felt: watch::Sender<Urgency>) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let [Ok(mut terminate), Ok(mut interrupt)] = kinds.map(signal) else {
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        felt.send_modify(|urgency| {
            *urgency = if *urgency == Urgency::None {
                Urgency::Stop
            } else {
                Urgency::Kill
            };
        });
    }
}
