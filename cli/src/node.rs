//! The engine of this machine, opened for one command.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use berth_cri::engine::Engine;
use berth_cri::engine::config::EngineConfig;

use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// Opens the engine on the directories that the caller chose. Needs root.
///
/// # Errors
///
/// The caller is not root, `berth-oci` is not found, or a file of the
/// configuration cannot be read.
pub async fn open(settings: &Settings) -> Result<Arc<Engine>> {
    open_with(settings, |_| Ok(())).await
}

/// The same with more choices made.
///
/// # Errors
///
/// As [`open`], and those of `choose`.
pub async fn open_with(
    settings: &Settings,
    choose: impl FnOnce(&mut EngineConfig) -> Result<()>,
) -> Result<Arc<Engine>> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            "not root: namespaces, mounts and cgroups need it; expected 'sudo berth …'",
        ));
    }
    let attempt = "open the engine";
    let mut config =
        EngineConfig::new(settings.run_dir.clone(), settings.data_dir.clone()).context(attempt)?;
    config.cgroup_parent = settings.cgroup_parent.clone();
    choose(&mut config)?;
    Engine::open(config).await.context(attempt)
}

/// Runs a command's future to its end.
///
/// # Errors
///
/// The command's own, or the kernel gives no threads.
pub fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(command);
    // A thread that waits for a key must not keep the program.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// A number that grows whenever something happens on the node.
pub fn changes(engine: &Engine) -> tokio::sync::watch::Receiver<u64> {
    use futures::StreamExt;
    let (sender, receiver) = tokio::sync::watch::channel(0);
    let mut events = engine.events();
    tokio::spawn(async move {
        while events.next().await.is_some() {
            if sender.is_closed() {
                return;
            }
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}
