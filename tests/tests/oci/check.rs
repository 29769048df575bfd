//! Runs a case over the runtimes, each on a machine of its own, and sweeps.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_tests::host::program;
use berth_tests::sweep::Sweep;

use crate::differences::DIFFERENCES;
use crate::lab::{Hierarchies, Lab};

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// runc, crun and berth-oci, on a machine with cgroups of one version only.
    All,
    /// runc and berth-oci, on one that has v1 and v2 side by side, which crun refuses.
    Hybrid,
    /// berth-oci alone: what the elder two do not have.
    Berth,
}

/// A runtime to ask.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its program's name, for the table of differences.
    pub name: String,
    /// Its program.
    pub path: PathBuf,
}

/// Runs a case over the runtimes and panics with all that went wrong. The
/// case's name is the test's, such as `life::exit_code`.
///
/// # Panics
///
/// A runtime fails the case, leaves something behind, or passes a case that
/// the table of differences says it fails.
pub fn check<Case: Fn(&Lab) -> Result<()>>(who: Who, case: Case) {
    let name = case_name::<Case>();
    let mut wrong = Vec::new();
    for runtime in runtimes(who) {
        let known = DIFFERENCES
            .iter()
            .find(|difference| difference.case == name && difference.runtime == runtime.name);
        let outcome = match runtime.name.as_str() {
            "berth-oci" => ask(who, &runtime, &case),
            _ => ask_referee(who, &runtime, &case, known.is_some()),
        };
        match (outcome, known) {
            (Ok(()), None) => {}
            (Err(error), None) => wrong.push(format!("{}: {error:#}", runtime.name)),
            (Err(error), Some(known)) => {
                println!(
                    "{} differs as known: {}\n{error:#}",
                    runtime.name, known.reason
                );
            }
            (Ok(()), Some(known)) => wrong.push(format!(
                "{}: does not differ any more, so oci/differences.rs is wrong: {}",
                runtime.name, known.reason
            )),
        }
    }
    assert!(wrong.is_empty(), "{name}\n{}", wrong.join("\n"));
}

/// Asks up to three times for the outcome that is expected. The elder two have
/// races of their own, some on a slow machine only, and it is not they who are
/// judged here; of berth-oci the first answer counts.
fn ask_referee(
    who: Who,
    runtime: &Runtime,
    case: impl Fn(&Lab) -> Result<()>,
    differs: bool,
) -> Result<()> {
    for attempt in 1..3 {
        let outcome = ask(who, runtime, &case);
        if outcome.is_err() == differs {
            return outcome;
        }
        println!(
            "{} is asked again, for attempt {attempt} ended in {outcome:?}",
            runtime.name
        );
    }
    ask(who, runtime, case)
}

fn ask(who: Who, runtime: &Runtime, case: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    let hierarchies = match who {
        Who::Hybrid => Hierarchies::AsTheMachine,
        Who::All | Who::Berth => Hierarchies::OneVersion,
    };
    let lab = Lab::new(runtime.clone(), hierarchies)?;
    let before = Sweep::before(&lab.host)?;
    let outcome = case(&lab);
    let swept = match outcome {
        Ok(()) => before.assert_clean(&lab.host),
        // What a broken case leaves says nothing more.
        Err(_) => Ok(()),
    };
    lab.clean_up();
    match (outcome, swept) {
        (Ok(()), swept) => swept,
        (Err(error), _) => Err(error),
    }
}

fn runtimes(who: Who) -> Vec<Runtime> {
    let named = |path: &Path| Runtime {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        path: path.to_owned(),
    };
    let asked: &[&str] = match who {
        Who::All => &["runc", "crun", "berth-oci"],
        Who::Hybrid => &["runc", "berth-oci"],
        Who::Berth => &["berth-oci"],
    };
    let by_name = |name: &str| match name {
        "berth-oci" => named(&program(name)),
        referee => found(named(&Path::new("/usr/sbin").join(referee))).unwrap(),
    };
    match std::env::var("RUNTIME_UNDER_TEST") {
        Ok(path) => {
            let runtime = match path.contains('/') {
                true => named(Path::new(&path)),
                false => by_name(&path),
            };
            let is_asked = asked.contains(&runtime.name.as_str());
            is_asked.then_some(runtime).into_iter().collect()
        }
        Err(_) => asked.iter().map(|name| by_name(name)).collect(),
    }
}

/// A referee is in one of two folders, depending on its package.
fn found(runtime: Runtime) -> Result<Runtime> {
    let elsewhere = Path::new("/usr/bin").join(&runtime.name);
    if runtime.path.exists() {
        return Ok(runtime);
    }
    if !elsewhere.exists() {
        bail!("{0} is missing: apt-get install {0}", runtime.name);
    }
    let path = elsewhere.canonicalize().context("resolve the runtime")?;
    Ok(Runtime { path, ..runtime })
}

/// `oci::life::exit_code::{{closure}}` is the type of the closure in that test.
fn case_name<Case>() -> &'static str {
    let name = std::any::type_name::<Case>();
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    name.split_once("::{{").map_or(name, |(name, _)| name)
}
