//! CRI-O with berth-oci as its OCI runtime, judged by critest, and runc as the referee.
//!
//! Both are programs of others that no package has, so this runs only where `CRIO` and
//! `CRITEST` name them, and says loudly where it did not. `pinns`, which CRI-O calls, is
//! looked for beside it, and the CNI plugins there too (`./x bench cri` builds all of them).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use berth_tests::critest::{judge, named};
use berth_tests::image::critest;
use berth_tests::outcome::finish;
use berth_tests::peers::{Folder, crio};
use berth_tests::registry::{Access, Registry};

use crate::world::{World, berth};

/// Debian's.
const REFEREE: &str = "/usr/sbin/runc";

#[test]
fn what_passes_with_runc_passes() -> Result<()> {
    let (Some(program), Some(judge)) = (named("CRIO"), named("CRITEST")) else {
        return Ok(());
    };
    let with = |runtime: &Path| {
        let world = World::new()?;
        let outcome = failures(&world, Path::new(&program), &judge, runtime);
        world.close();
        outcome
    };
    let referee = with(Path::new(REFEREE))?;
    let ours = with(&berth())?;
    let worse: Vec<_> = ours.difference(&referee).collect();
    ensure!(worse.is_empty(), "with runc these pass: {worse:#?}");
    Ok(())
}

/// The specs that fail with a runtime.
fn failures(
    world: &World,
    program: &Path,
    judging: &str,
    runtime: &Path,
) -> Result<BTreeSet<String>> {
    let beside = program.parent().context("CRIO: expected a path")?;
    let registry = Registry::start_in(world.host(), Access::Open)?;
    critest::push_all(&registry)?;
    let folder = Folder::new(&world.folder("crio"), beside);
    // Both runtimes are asked for the same.
    let edited = folder.with_our_score(runtime)?;
    let pinns = beside.join("pinns");
    let (arguments, registries) = crio::write(&folder, &registry, &edited, &pinns)?;
    let mut mount = world.command("mount");
    mount.arg("--bind").arg(registries).arg(crio::REGISTRIES);
    finish(&mut mount)?.text()?;
    let socket = folder.path().join("cri.sock");
    // conmon kills what an exec has no more time for and leaves it to process 1, which may take
    // its time: critest looks at once.
    let mut command = world.command("catatonit");
    command.arg("--").arg(program).args(arguments);
    world.start_daemon("crio", &mut command, &socket)?;
    let report = world.folder("crio").join("critest.json");
    let endpoint = format!("unix://{}", socket.display());
    let mut command: Command = world.command(judging);
    let output = command
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .args(["-ginkgo.no-color", "-ginkgo.skip", "NRI"])
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .stdin(Stdio::null())
        .output()?;
    let bytes = std::fs::read(&report)
        .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    let judged = judge(&serde_json::from_slice(&bytes)?)?;
    println!(
        "critest on CRI-O with {}: {} passed, {} skipped, failed: {:#?}",
        runtime.display(),
        judged.passed,
        judged.skipped,
        judged.failed
    );
    ensure!(judged.passed > 50, "only {} passed", judged.passed);
    Ok(judged.failed.into_iter().collect())
}
