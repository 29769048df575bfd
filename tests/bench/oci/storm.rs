//! Many containers at once: how many a second, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bundle::{Bundle, MARK, MARK_VARIABLE};
use super::runtime::Runtime;
use crate::measure::rounds;
use crate::report::Section;

/// At once.
const WORKERS: usize = 16;

/// Parts into which the containers are cut, so that the runtimes take turns.
const SLICES: usize = 10;

/// Containers in a part.
const SLICE: usize = 100;

/// 1,000 create + start + delete.
pub fn rage(section: &mut Section, scratch: &Path, runtimes: &[Runtime]) -> Result<()> {
    let bundles = (0..WORKERS)
        .map(|worker| {
            Bundle::make_with(scratch, &format!("storm-{worker}"), |config| {
                // Not below one group for all: runc leaves that behind.
                config["linux"]["cgroupsPath"] = json!(format!("/{MARK}-storm-{worker}"));
                if let Value::Array(variables) = &mut config["process"]["env"] {
                    variables.push(json!(format!("{MARK_VARIABLE}={}", std::process::id())));
                }
            })
        })
        .collect::<Result<Vec<Bundle>>>()?;
    let slices = rounds(SLICES);
    let mut found: Vec<Found> = runtimes.iter().map(|_| Found::default()).collect();
    for _ in 0..slices {
        for (runtime, found) in runtimes.iter().zip(&mut found) {
            let before = mounts()?;
            let (taken, failed) = slice(&bundles, runtime);
            found.taken += taken;
            found.failed += failed;
            found.left.add(&Left::after(before, &bundles[0], runtime)?);
            sweep(&bundles, runtime);
        }
    }
    let ours = found.first().context("ours is among them")?;
    ensure!(ours.failed == 0, "{} calls of ours failed", ours.failed);

    let count = slices * SLICE;
    let rate = |found: &Found| count as f64 / found.taken.as_secs_f64();
    let reference = runtimes
        .iter()
        .position(|runtime| runtime.name == "crun")
        .map(|index| rate(&found[index]));
    let rows = runtimes.iter().zip(&found).map(|(runtime, found)| {
        let ratio = reference.map_or_else(
            || "–".to_owned(),
            |reference| format!("{:.2}", rate(found) / reference),
        );
        let left = &found.left;
        vec![
            runtime.name.clone(),
            format!("{:.0}", rate(found)),
            ratio,
            found.failed.to_string(),
            left.states.to_string(),
            left.cgroups.to_string(),
            left.processes.to_string(),
            left.mounts.to_string(),
        ]
    });
    section.rows(
        &format!("{count} × create + start + delete, {WORKERS} at once; more is better"),
        &[
            "containers a second",
            "ratio to crun",
            "failed",
            "states left",
            "cgroups left",
            "processes left",
            "mounts left",
        ],
        rows.collect(),
    );
    Ok(())
}

/// What one runtime did.
#[derive(Default)]
struct Found {
    taken: Duration,
    failed: usize,
    left: Left,
}

fn slice(bundles: &[Bundle], runtime: &Runtime) -> (Duration, usize) {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for bundle in bundles {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SLICE {
                        break;
                    }
                    let id = format!("storm-{number}");
                    if let Err(error) = bundle.create_start_delete(runtime, &id) {
                        eprintln!("oci: {error:#}");
                        failed.fetch_add(1, Ordering::Relaxed);
                        // The next one needs the cgroup.
                        let _ = bundle.delete(runtime, &id);
                    }
                }
            });
        }
    });
    (start.elapsed(), failed.into_inner())
}

/// What is there and should not be.
#[derive(Default)]
struct Left {
    states: usize,
    cgroups: usize,
    processes: usize,
    mounts: usize,
}

impl Left {
    fn after(mounts_before: usize, bundle: &Bundle, runtime: &Runtime) -> Result<Left> {
        let states = fs::read_dir(bundle.root.join(&runtime.name))?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("storm-"));
        Ok(Left {
            states: states.count(),
            cgroups: cgroups(),
            processes: processes(),
            mounts: mounts()?.saturating_sub(mounts_before),
        })
    }

    fn add(&mut self, other: &Left) {
        self.states += other.states;
        self.cgroups += other.cgroups;
        self.processes += other.processes;
        self.mounts += other.mounts;
    }
}

/// So that one runtime's remains are not counted as the next one's.
fn sweep(bundles: &[Bundle], runtime: &Runtime) {
    for number in 0..SLICE {
        let id = format!("storm-{number}");
        if bundles[0].root.join(&runtime.name).join(&id).exists() {
            let _ = bundles[0].delete(runtime, &id);
        }
    }
    for folder in folders_of_groups() {
        let _ = match is_group(&folder) {
            true => fs::remove_dir(folder),
            false => fs::remove_dir_all(folder),
        };
    }
}

/// Processes of containers, and of runtimes that are over: both have the variable.
fn processes() -> usize {
    let mark = format!("{MARK_VARIABLE}={}", std::process::id());
    let has_mark = |environment: &Vec<u8>| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == mark.as_bytes())
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| fs::read(entry.path().join("environ")).ok())
        .filter(has_mark)
        .count()
}

fn cgroups() -> usize {
    folders_of_groups()
        .iter()
        .filter(|folder| is_group(folder))
        .count()
}

/// Not a plain folder: where no version 2 tree is mounted crun makes its group in
/// the tmpfs that the trees are mounted on.
fn is_group(folder: &Path) -> bool {
    ["tasks", "cgroup.controllers"]
        .iter()
        .any(|file| folder.join(file).exists())
}

/// What has a name of ours in whatever tree, at its top: `cgroupsPath` says so.
fn folders_of_groups() -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && !path.is_symlink())
            .collect()
    };
    let trees = below(Path::new("/sys/fs/cgroup"));
    let mut all: Vec<PathBuf> = trees.iter().flat_map(|tree| below(tree)).collect();
    all.extend(trees);
    all.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&format!("{MARK}-"))
    });
    all
}

/// Mounts of our namespace.
fn mounts() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}
