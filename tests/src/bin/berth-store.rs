//! `berth-store FILE`: writes to an embedded store until it is killed, and says what was acknowledged.
//!
//! Eight tasks write keys of their own, one after the other, each value the number of the write.
//! A line `KEY NUMBER` is printed after a write was acknowledged, never before. The suite
//! `cluster_store` kills the process at any moment and looks for every line in the file.
//!
//! `berth-store FILE measure`: durable writes a second by one writer and by 64, and how long a
//! change takes to a watcher, beside 5,000 watchers that sleep.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_scheduler::store::embedded::EmbeddedStore;
use berth_scheduler::store::{Change, Expected, Store};
use bytes::Bytes;
use futures::StreamExt;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let file = words.next().context("usage: berth-store FILE [measure]")?;
    let store = Arc::new(EmbeddedStore::open(Path::new(&file))?);
    if words.next().as_deref() == Some("measure") {
        return measure(store).await;
    }
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

async fn measure(store: Arc<EmbeddedStore>) -> Result<()> {
    for writers in [1_usize, 8, 64] {
        let rate = write_for(&store, writers, Duration::from_secs(5)).await?;
        println!("{writers} writers at once: {rate:.0} durable writes a second of 1 KiB");
    }
    let mut asleep = Vec::new();
    let revision = store.read("/").await?.revision;
    for number in 0..5000 {
        asleep.push(
            store
                .watch(&format!("/registry/idle/{number}/"), revision)
                .await?,
        );
    }
    let latencies = watch_for(&store, 500).await?;
    for (name, at) in [("median", 50), ("99th percentile", 99)] {
        let place = (latencies.len() * at / 100).min(latencies.len() - 1);
        println!(
            "from the call of put to the watcher, {name}: {:?}",
            latencies[place]
        );
    }
    Ok(())
}

async fn write_for(store: &Arc<EmbeddedStore>, writers: usize, time: Duration) -> Result<f64> {
    let (start, value) = (Instant::now(), Bytes::from(vec![b'x'; 1024]));
    let tasks: Vec<_> = (0..writers)
        .map(|task| {
            let (store, value) = (Arc::clone(store), value.clone());
            tokio::spawn(async move {
                let mut count = 0_u32;
                while start.elapsed() < time {
                    let key = format!("/registry/core/pods/{task}/{}", count % 100);
                    store.put(&key, value.clone(), Expected::Anything).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
}

async fn watch_for(store: &Arc<EmbeddedStore>, count: usize) -> Result<Vec<Duration>> {
    let revision = store.read("/").await?.revision;
    let mut changes = store.watch("/registry/seen/", revision).await?;
    let mut latencies = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        let key = format!("/registry/seen/{}", number % 10);
        let put = store.put(&key, Bytes::from(vec![b'x'; 1024]), Expected::Anything);
        let seen = async {
            while matches!(changes.next().await, Some(Ok(Change::Progress { .. }))) {}
            begun.elapsed()
        };
        let (put, latency) = tokio::join!(put, seen);
        put?;
        latencies.push(latency);
    }
    latencies.sort();
    Ok(latencies)
}
