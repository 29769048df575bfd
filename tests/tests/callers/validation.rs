//! The validation programs of OCI's runtime-tools, built from its Go module.
//!
//! Each program makes containers by `RUNTIME` and writes TAP: `ok` and `not ok`,
//! a line a check. The suite is of 2019 and parts of it can pass nowhere; for
//! those runc has to fail too, in the same run and by the same checks, and
//! `docs/conformance-oci.md` has to say why.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use berth_tests::image::layer::{Content, Entry};
use berth_tests::image::{architecture, busybox, layer};
use berth_tests::outcome::{Outcome, finish};

use crate::world::{World, berth};

const MODULE: &str = "github.com/opencontainers/runtime-tools";

/// Cases that ask for what no runtime should do; the reasons are in the docs.
const WRONG: &[&str] = &[
    "delete",
    "hooks_stdin",
    "misc_props",
    "process_rlimits",
    "start",
];

/// Cases that pass below either when the machine is slow at the right moment; the docs say why.
const BY_CHANCE: &[&str] = &["pidfile"];

/// Cases that lose a race of their own now and then; the docs say which. They have
/// [`TRIES`] to win it.
const RACING: &[&str] = &["killsig"];

/// How often a racing case is run at most.
const TRIES: u32 = 3;

/// Cases that need what not every machine has; the docs say what.
const OF_MACHINE: &[&str] = &[
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
    "process_capabilities",
];

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
    failure: Option<Failure>,
}

/// What failed: the checks by their names, and all that was said.
struct Failure {
    checks: BTreeSet<String>,
    told: String,
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
        if is_excused(&case) {
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
                    let mut verdict = judge(&world, &programs, &task);
                    let tries = if is_racing(&task.case) { TRIES } else { 1 };
                    for _ in 1..tries {
                        let Some(failure) = &verdict.failure else {
                            break;
                        };
                        println!("{} is run again: {}", task.case, failure.told);
                        verdict = judge(&world, &programs, &task);
                    }
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
    let mut entries = busybox::layer()?.entries;
    // They unpack it in a folder that only root may enter, and users of a user
    // namespace are others.
    entries.insert(
        0,
        Entry {
            path: ".".to_owned(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            content: Content::Directory,
        },
    );
    let archive = layer::archive(&entries)?;
    let packed = layer::compress(archive, layer::Compression::Gzip)?;
    let name = format!("rootfs-{}.tar.gz", architecture());
    Ok(fs::write(folder.join(name), packed.bytes)?)
}

fn judge(world: &World, programs: &Path, task: &Task) -> Verdict {
    let program = programs.join(&task.case);
    let script = "cd validation && exec \"$0\"";
    let mut command = world.command("sh");
    command
        .args(["-c", script])
        .arg(program)
        .env("RUNTIME", &task.runtime);
    let failure = match finish(&mut command) {
        Err(error) => Some(Failure {
            checks: BTreeSet::new(),
            told: format!("{error:#}"),
        }),
        Ok(outcome) => failure(&outcome),
    };
    Verdict {
        ours: task.runtime == berth(),
        case: task.case.clone(),
        failure,
    }
}

/// The lines of failed checks, and what the program complained of.
fn failure(outcome: &Outcome) -> Option<Failure> {
    let mut lines: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.trim_start().starts_with("not ok"))
        .collect();
    if outcome.code == 0 && lines.is_empty() {
        return None;
    }
    let checks = lines.iter().map(|line| check_name(line)).collect();
    lines.extend(outcome.stderr.lines());
    Some(Failure {
        checks,
        told: lines.join("\n  "),
    })
}

/// `not ok 3 - words` without the number, which counts the checks before it, and
/// without the numbers of processes and containers among the words.
fn check_name(line: &str) -> String {
    let words = line.trim_start().trim_start_matches("not ok").trim_start();
    let words = words.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let plain = words.split_whitespace().map(|word| match word {
        word if word.contains(|letter: char| letter.is_ascii_digit()) => "#",
        word => word,
    });
    plain.collect::<Vec<_>>().join(" ")
}

fn is_racing(case: &str) -> bool {
    RACING.contains(&case)
}

fn is_excused(case: &str) -> bool {
    [WRONG, BY_CHANCE, OF_MACHINE]
        .iter()
        .any(|list| list.contains(&case))
}

fn findings(verdicts: &[Verdict]) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance-oci.md");
    let page = fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.ours) {
        let case = verdict.case.as_str();
        let theirs = verdicts
            .iter()
            .find(|other| !other.ours && other.case == case)
            .map(|other| other.failure.as_ref());
        wrong.extend(compare(case, verdict.failure.as_ref(), theirs));
        if (is_excused(case) || is_racing(case)) && !page.contains(&format!("`{case}`")) {
            wrong.push(format!(
                "{case} is not explained in docs/conformance-oci.md"
            ));
        }
    }
    wrong
}

/// What a case complains of when the runtime refuses.
const NOT_MADE: &str = "failed to create the container";

/// What is wrong with one case; `theirs` is there where runc was asked too.
fn compare(case: &str, ours: Option<&Failure>, theirs: Option<Option<&Failure>>) -> Option<String> {
    match (ours, theirs) {
        (None, None) => None,
        (Some(ours), None) => Some(format!("{case} fails: {}", ours.told)),
        (_, Some(_)) if BY_CHANCE.contains(&case) => None,
        (Some(ours), Some(None)) => {
            Some(format!("{case} passes below runc, and here: {}", ours.told))
        }
        // Where runc made no container, it came to no check.
        (Some(_), Some(Some(theirs))) if theirs.told.contains(NOT_MADE) => None,
        (Some(ours), Some(Some(theirs))) => {
            let alone: Vec<_> = ours.checks.difference(&theirs.checks).collect();
            (!alone.is_empty()).then(|| {
                format!(
                    "{case} fails more than below runc: {alone:?}\n  {}\nrunc:\n  {}",
                    ours.told, theirs.told
                )
            })
        }
        // A machine may have what others lack: then runc passes as well.
        (None, Some(None)) if OF_MACHINE.contains(&case) => None,
        (None, Some(_)) => Some(format!(
            "{case} passes: take it from the list in callers/validation.rs, and the reason from docs/conformance-oci.md"
        )),
    }
}

#[test]
fn a_list_that_is_no_longer_true_is_told() {
    let failure = |line: &str| Failure {
        checks: BTreeSet::from([check_name(line)]),
        told: line.to_owned(),
    };
    let (one, other) = (
        failure("not ok 1 - pid 1a2b is gone"),
        failure("not ok 7 - pid 3c is gone"),
    );
    assert_eq!(compare("delete", Some(&one), Some(Some(&other))), None);
    let more = failure("not ok 2 - the hook ran");
    for (case, ours, theirs, words) in [
        ("delete", None, Some(Some(&one)), "passes: take it"),
        (
            "linux_mount_label",
            None,
            Some(Some(&one)),
            "passes: take it",
        ),
        ("delete", Some(&one), Some(None), "passes below runc"),
        ("delete", Some(&more), Some(Some(&one)), "fails more"),
        ("state", Some(&one), None, "state fails"),
    ] {
        let found = compare(case, ours, theirs);
        assert!(found.is_some_and(|text| text.contains(words)), "{words}");
    }
    assert_eq!(compare("linux_mount_label", None, Some(None)), None);
}
