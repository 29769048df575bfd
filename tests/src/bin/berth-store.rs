//! `berth-store FILE`: writes to an embedded store until it is killed, and says what was acknowledged.
//!
//! Eight tasks write keys of their own, one after the other, each value the number of the write.
//! A line `KEY NUMBER` is printed after a write was acknowledged, never before. The suite
//! `cluster_store` kills the process at any moment and looks for every line in the file.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use berth_scheduler::store::embedded::EmbeddedStore;
use berth_scheduler::store::{Expected, Store};
use bytes::Bytes;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: berth-store FILE")?;
    let store = Arc::new(EmbeddedStore::open(Path::new(&file))?);
    let writers: Vec<_> = (0..8)
        .map(|task| tokio::spawn(write(Arc::clone(&store), task)))
        .collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn write(store: Arc<EmbeddedStore>, task: usize) -> Result<()> {
    for number in 0_u64.. {
        let key = format!("/registry/core/pods/{task}/{}", number % 50);
        let value = Bytes::from(number.to_string());
        store.put(&key, value, Expected::Anything).await?;
        // One call, so that a line is whole or absent.
        std::io::stdout().write_all(format!("{key} {number}\n").as_bytes())?;
    }
    Ok(())
}
