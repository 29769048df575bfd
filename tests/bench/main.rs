//! `berth-bench [NAME…]`: berth beside its peers, in one run and in turn.
//!
//! Machines drift while a benchmark runs: clocks change, neighbours wake. So no
//! program is measured after another but between its runs: A B C, A B C, …, and
//! the figure to trust is the ratio of medians, not a time. Nothing here asserts
//! one; the tables go into `docs/performance.md` as they were measured.
//! `BERTH_BENCH_ROUNDS=3` is for a short look, and leaves the page alone.

use std::process::ExitCode;

use anyhow::{Context, Result};

/// Placement beside kube-scheduler.
mod cluster;
/// `berth cri` beside containerd.
mod cri;
/// A cluster of two hosts.
mod hosts;
/// Pulling beside other tools.
mod images;
/// Runs contenders in turn and reduces their times.
mod measure;
/// The network between hosts.
mod net;
/// `berth-oci` beside other OCI runtimes.
mod oci;
/// A pod beside podman's.
mod pod;
/// Writes the tables.
mod report;

/// One benchmark: a name for the command line and what it does.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn(&mut report::Section) -> Result<()>,
}

/// All benchmarks, in the order in which the page shows them.
const BENCHES: &[Bench] = &[
    Bench {
        name: "oci",
        what: "what starting a container costs",
        run: oci::run,
    },
    Bench {
        name: "images",
        what: "what pulling and unpacking an image costs",
        run: images::run,
    },
    Bench {
        name: "pod",
        what: "what a pod takes until it serves",
        run: pod::run,
    },
    Bench {
        name: "cri",
        what: "what a kubelet's calls cost",
        run: cri::run,
    },
    Bench {
        name: "net",
        what: "what the network between hosts lets through, and what a change of it costs",
        run: net::run,
    },
    Bench {
        name: "cluster",
        what: "how fast pods get nodes",
        run: cluster::run,
    },
    Bench {
        name: "hosts",
        what: "how soon a cluster runs a pod, and what it takes when it has nothing to do",
        run: hosts::run,
    },
];

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = chosen
        .iter()
        .find(|name| BENCHES.iter().all(|b| b.name != **name))
    {
        eprintln!("berth-bench: no benchmark named {unknown:?}; there are:");
        for bench in BENCHES {
            eprintln!("  {:<10} {}", bench.name, bench.what);
        }
        return ExitCode::from(2);
    }
    let mut failed = false;
    for bench in BENCHES {
        let wanted = chosen.is_empty() || chosen.iter().any(|name| name == bench.name);
        if wanted && let Err(error) = run(bench) {
            eprintln!("berth-bench: {}: {error:#}", bench.name);
            failed = true;
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Measures one and puts its table into the page and on the terminal.
fn run(bench: &Bench) -> Result<()> {
    eprintln!("{}: {}", bench.name, bench.what);
    let mut section = report::Section::new(bench.name, bench.what);
    (bench.run)(&mut section)?;
    println!("{section}");
    if measure::few_rounds().is_some() {
        return Ok(());
    }
    section
        .write_into_page()
        .context("docs/performance.md was not changed")
}
