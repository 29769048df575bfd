//! `berth-oci` beside crun, runc, youki and a C program that makes only the kernel's calls.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use crate::measure::{Contender, in_turn, rounds};
use crate::report::Section;

/// What is run.
mod bundle;
/// How little memory suffices, and how much is taken.
mod memory;
/// Who runs it.
mod runtime;
/// Many containers at once.
mod storm;

use bundle::Bundle;
use runtime::{Runtime, quietly};

/// Runs of each; a run takes some milliseconds.
const ROUNDS: usize = 100;

/// The id of a container that runs while programs are added to it.
const RUNNING: &str = "bench-exec";

/// Measures times, memory, and many at once.
pub fn run(section: &mut Section) -> Result<()> {
    hide_the_hybrid_tree()?;
    let scratch = tempfile::tempdir()?;
    let bench = Bundle::make(scratch.path())?;
    let (runtimes, absent) = runtime::able(&bench)?;
    section.say(runtime::versions(&runtimes));
    for reason in absent {
        section.say(reason);
    }
    whole_runs(section, &bench, &runtimes)?;
    execs(section, scratch.path(), &runtimes)?;
    memory::peaks(section, scratch.path(), &runtimes)?;
    memory::smallest_limits(section, scratch.path(), &runtimes)?;
    storm::rage(section, scratch.path(), &runtimes)
}

fn whole_runs(section: &mut Section, bench: &Bundle, runtimes: &[Runtime]) -> Result<()> {
    let minimal = bench.compile("minimal", include_str!("oci/minimal.c"))?;
    let mut contenders: Vec<Contender<'_>> = runtimes
        .iter()
        .map(|runtime| Contender::new(&runtime.name, || bench.run(runtime, "bench-run")))
        .collect();
    contenders.push(Contender::new("minimal", || {
        quietly(
            Command::new(&minimal)
                .arg(bench.folder.join("rootfs"))
                .arg("/bin/true"),
        )
    }));
    let times = in_turn(&mut contenders, rounds(ROUNDS))?;
    drop(contenders);
    section.table("`run` of `true`", &times, "crun");
    section.table("The same, against the floor", &times, "minimal");

    let mut contenders: Vec<Contender<'_>> = runtimes
        .iter()
        .map(|runtime| {
            Contender::new(&runtime.name, || {
                bench.create_start_delete(runtime, "bench-csd")
            })
        })
        .collect();
    let times = in_turn(&mut contenders, rounds(ROUNDS))?;
    section.table("create + start + delete", &times, "crun");
    Ok(())
}

/// One more program in a container that runs.
fn execs(section: &mut Section, scratch: &Path, runtimes: &[Runtime]) -> Result<()> {
    let sleeper = Bundle::make_with(scratch, "sleeper", |config| {
        config["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
    })?;
    let measured = begin_all(&sleeper, runtimes).and_then(|()| {
        let mut contenders: Vec<Contender<'_>> = runtimes
            .iter()
            .map(|runtime| {
                Contender::new(&runtime.name, || {
                    quietly(sleeper.call(runtime).args(["exec", RUNNING, "/bin/true"]))
                })
            })
            .collect();
        in_turn(&mut contenders, rounds(ROUNDS))
    });
    for runtime in runtimes {
        // One that did not begin has nothing to take away.
        let _ = sleeper.delete(runtime, RUNNING);
    }
    section.table(
        "`exec` of `true` in a container that runs",
        &measured?,
        "crun",
    );
    Ok(())
}

/// In cgroups of their own: not every runtime puts its name before the container's.
fn begin_all(sleeper: &Bundle, runtimes: &[Runtime]) -> Result<()> {
    for runtime in runtimes {
        sleeper.settle_in(&format!("/{}-exec-{}", bundle::MARK, runtime.name))?;
        sleeper.create(runtime, RUNNING)?;
        quietly(sleeper.call(runtime).args(["start", RUNNING]))?;
    }
    Ok(())
}

/// Debian's crun refuses a v2 tree beside v1 controllers, so nobody gets to see it.
fn hide_the_hybrid_tree() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace needs root")?;
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() {
        nix::mount::umount2(unified, MntFlags::MNT_DETACH).context("unmounting the v2 tree")?;
    }
    Ok(())
}
