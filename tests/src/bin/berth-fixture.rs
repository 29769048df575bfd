//! `berth-fixture serve-example`: a registry for the README's first command.
//!
//! Where the public registry cannot be reached, `./x run` starts this. It builds
//! the images that the examples name from what Debian ships, serves them by a
//! registry on loopback, and prints `registry ADDRESS` once they can be pulled.
//! A mirror in a `registries.toml` then stands for the public registry, and the
//! manifests stay as they are. SIGTERM or Ctrl-C ends it and the registry.
//!
//! `berth-fixture serve-critest` does the same with the images of critest, and
//! writes the `registries.toml` into the file that it is given.

use anyhow::{Context, Result, bail};
use berth_tests::image::{critest, examples};
use berth_tests::registry::{Access, Registry};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["serve-example"] => serve_example().await,
        ["serve-critest", registries] => serve_critest(registries).await,
        _ => bail!("usage: berth-fixture serve-example | serve-critest REGISTRIES_TOML"),
    }
}

async fn serve_example() -> Result<()> {
    serve(examples::push_all).await
}

async fn serve_critest(registries: &str) -> Result<()> {
    serve(|registry| {
        critest::push_all(registry)?;
        std::fs::write(registries, critest::mirror_configuration(registry))
            .with_context(|| format!("write {registries}"))
    })
    .await
}

async fn serve(fill: impl FnOnce(&Registry) -> Result<()>) -> Result<()> {
    // Before the registry starts, so that no signal finds it without a master.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registry = Registry::start(Access::Open)?;
    fill(&registry)?;
    println!("registry {}", registry.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
