//! `berth-fixture serve-example`: a registry for the README's first command.
//!
//! Where the public registry cannot be reached, `./x run` starts this. It builds
//! the images that the examples name from what Debian ships, serves them by a
//! registry on loopback, and prints `registry ADDRESS` once they can be pulled.
//! A mirror in a `registries.toml` then stands for the public registry, and the
//! manifests stay as they are. SIGTERM or Ctrl-C ends it and the registry.

use anyhow::{Result, bail};
use berth_tests::image::examples;
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
        _ => bail!("usage: berth-fixture serve-example"),
    }
}

async fn serve_example() -> Result<()> {
    // Before the registry starts, so that no signal finds it without a master.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registry = Registry::start(Access::Open)?;
    examples::push_all(&registry)?;
    println!("registry {}", registry.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
