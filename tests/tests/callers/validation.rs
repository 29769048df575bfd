//! The validation programs of OCI's runtime-tools, built from its Go module.
//!
//! Each program makes containers by `RUNTIME` and writes TAP: `ok` and `not ok`,
//! a line a check. The suite is of 2019 and parts of it can pass nowhere; for
//! those runc has to fail too, in the same run, and `docs/conformance-oci.md`
//! has to say why.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use berth_tests::image::{architecture, busybox, layer};
use berth_tests::outcome::{Outcome, finish};

use crate::world::{World, berth};

const MODULE: &str = "github.com/opencontainers/runtime-tools";

/// Cases that runc fails as well, at least on some machines; the reasons are in the docs.
const KNOWN: &[&str] = &[
    "delete",
    "hooks_stdin",
    "linux_cgroups_blkio",
    "linux_cgroups_hugetlb",
    "linux_cgroups_memory",
    "linux_cgroups_network",
    "linux_cgroups_relative_blkio",
    "linux_cgroups_relative_hugetlb",
    "linux_cgroups_relative_memory",
    "linux_cgroups_relative_network",
    "linux_mount_label",
    "linux_process_apparmor_profile",
    "linux_rootfs_propagation",
    "misc_props",
    "pidfile",
    "process_capabilities",
    "process_rlimits",
    "start",
];

/// Cases for what berth-oci does not do yet, as the docs say.
const NOT_YET: &[&str] = &["linux_ns_itype", "linux_ns_nopath", "linux_uid_mappings"];

/// Most cases sleep between their questions, so more run at once than there are processors.
const WORKERS: usize = 6;

/// One program below one runtime.
struct Task {
    case: String,
    runtime: PathBuf,
}

/// How a task ended: nothing, or what failed.
struct Verdict {
    case: String,
    ours: bool,
    failure: Option<String>,
}

#[test]
fn every_case_passes_or_fails_below_runc_too() {
    let programs = build().unwrap();
    let runtimetest = programs.join("runtimetest");
    let mut tasks = VecDeque::new();
    for entry in fs::read_dir(&programs).unwrap() {
        let case = entry.unwrap().file_name().into_string().unwrap();
        if case == "runtimetest" {
            continue;
        }
        if KNOWN.contains(&case.as_str()) {
            let runtime = PathBuf::from("/usr/sbin/runc");
            tasks.push_front(Task {
                case: case.clone(),
                runtime,
            });
        }
        tasks.push_back(Task {
            case,
            runtime: berth(),
        });
    }
    assert!(tasks.len() > 50, "the module has {} cases", tasks.len());
    let tasks = Mutex::new(tasks);
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let world = World::new().unwrap();
                prepare(&world, &runtimetest).unwrap();
                loop {
                    let Some(task) = tasks.lock().unwrap().pop_front() else {
                        break;
                    };
                    let verdict = judge(&world, &programs, task);
                    verdicts.lock().unwrap().push(verdict);
                }
                world.close();
            });
        }
    });
    let wrong = findings(&verdicts.into_inner().unwrap());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Builds all programs of the module; Go keeps what it built before.
fn build() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("validation");
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("go");
    command
        .args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"])
        .arg(&folder)
        .arg(format!("{MODULE}/validation/..."))
        .arg(format!("{MODULE}/cmd/runtimetest"))
        // It runs in containers that have no libraries.
        .env("CGO_ENABLED", "0")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("validation"));
    let output = command
        .output()
        .context("go is missing: apt-get install golang-go")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder)
}

/// Programs look for the rootfs and for what they run in it where they start.
fn prepare(world: &World, runtimetest: &Path) -> Result<()> {
    let folder = world.folder("validation");
    fs::copy(runtimetest, folder.join("runtimetest"))?;
    let archive = layer::archive(&busybox::layer()?.entries)?;
    let packed = layer::compress(archive, layer::Compression::Gzip)?;
    let name = format!("rootfs-{}.tar.gz", architecture());
    Ok(fs::write(folder.join(name), packed.bytes)?)
}

fn judge(world: &World, programs: &Path, task: Task) -> Verdict {
    let program = programs.join(&task.case);
    let script = "cd validation && exec \"$0\"";
    let mut command = world.command("sh");
    command
        .args(["-c", script])
        .arg(program)
        .env("RUNTIME", &task.runtime);
    let failure = match finish(&mut command) {
        Err(error) => Some(format!("{error:#}")),
        Ok(outcome) => failure(&outcome),
    };
    Verdict {
        ours: task.runtime == berth(),
        case: task.case,
        failure,
    }
}

/// The lines of failed checks, and what the program complained of.
fn failure(outcome: &Outcome) -> Option<String> {
    let mut lines: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.trim_start().starts_with("not ok"))
        .collect();
    if outcome.code == 0 && lines.is_empty() {
        return None;
    }
    lines.extend(outcome.stderr.lines());
    Some(lines.join("\n  "))
}

fn findings(verdicts: &[Verdict]) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance-oci.md");
    let page = fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.ours) {
        let case = verdict.case.as_str();
        let theirs = verdicts
            .iter()
            .find(|other| !other.ours && other.case == case);
        let excused = KNOWN.contains(&case) || NOT_YET.contains(&case);
        if let Some(failure) = &verdict.failure {
            if !excused {
                wrong.push(format!("{case} fails: {failure}"));
            }
            if theirs.is_some_and(|theirs| theirs.failure.is_none()) {
                wrong.push(format!("{case} passes below runc, and here: {failure}"));
            }
        }
        if excused && !page.contains(&format!("`{case}`")) {
            wrong.push(format!(
                "{case} is not explained in docs/conformance-oci.md"
            ));
        }
    }
    wrong
}
