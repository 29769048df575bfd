//! RuntimeClass handlers: runc and crun make containers, the monitor stays ours.

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::machine::Machine;
use tonic::Code;

use crate::world::{World, refused, run_configured, run_on};

/// A file with both peers, wherever this machine has them.
fn both() -> Result<String> {
    Ok(format!(
        "[handlers.runc]\npath = \"{}\"\n[handlers.crun]\npath = \"{}\"\n",
        program("runc")?,
        program("crun")?
    ))
}

pub fn program(name: &str) -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    let found = found.with_context(|| format!("{name} is not in PATH; ./x setup installs it"))?;
    Ok(found.display().to_string())
}

/// crun refuses a machine with both versions of cgroups (1.8, `cgroup.c`): there
/// it gets a view without the second one.
fn crun_of(machine: &Machine) -> Result<String> {
    let crun = program("crun")?;
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    if controllers.unwrap_or_default().trim().is_empty() {
        return Ok(crun);
    }
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec {crun} \"$@\"' crun \"$@\"\n"
    );
    Ok(machine.write_program("crun", &text)?.display().to_string())
}

/// Whether a peer says itself that it knows recursive read-only mounts; crun did
/// not know the question before 1.8.6.
fn says_rro(peer: &str) -> Result<bool> {
    let answer = std::process::Command::new(program(peer)?)
        .arg("features")
        .output()?;
    let features: serde_json::Value = match serde_json::from_slice(&answer.stdout) {
        Ok(features) => features,
        Err(_) => return Ok(false),
    };
    let options = features["mountOptions"].as_array();
    Ok(options.is_some_and(|options| options.iter().any(|option| option == "rro")))
}

/// A pod's whole life, the server killed in its middle.
async fn lives(world: &mut World, handler: &str) -> Result<()> {
    let pod = world.run_handled(world.sandbox(handler), handler).await?;
    let script = "echo began; trap 'echo ended; exit 7' TERM; while :; do sleep 0.05; done";
    let id = world.run_container(&pod, handler, script).await?;
    let (text, code) = world.exec(&id, &["sh", "-c", "hostname; exit 3"]).await?;
    ensure!(
        (text.as_str(), code) == (&*format!("{handler}\n"), 3),
        "{text} {code}"
    );
    let told = world
        .runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: false,
        })
        .await?
        .into_inner();
    ensure!(told.status.context("a status")?.runtime_handler == handler);
    // Each runtime keeps its containers' states in a directory of its own.
    let folder = world
        .machine
        .host()
        .run_dir()
        .join(format!("oci-{handler}"));
    ensure!(folder.join(&id).exists(), "{} lacks {id}", folder.display());

    world.kill_and_restart().await?;
    let (text, _) = world.exec(&id, &["echo", "again"]).await?;
    ensure!(text == "again\n", "{text}");
    let limits = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        }),
        ..Default::default()
    };
    world.runtime.update_container_resources(limits).await?;
    let stop = v1::StopContainerRequest {
        container_id: id.clone(),
        timeout: 20,
    };
    world.runtime.stop_container(stop).await?;
    let ended = world.wait_exited(&id).await?;
    ensure!(ended.exit_code == 7, "{handler}: {ended:?}");
    let log = std::fs::read_to_string(world.logs().join(format!("{handler}.log")))?;
    ensure!(
        log.contains(" F began\n") && log.contains(" F ended\n"),
        "{log}"
    );

    // One that runs when its pod is removed.
    world.run_container(&pod, "late", "sleep 1000").await?;
    world.remove_sandbox(&pod).await?;
    ensure!(!folder.join(&id).exists(), "{handler} still knows {id}");
    Ok(())
}

#[test]
fn a_pod_of_runc_lives_and_ends() -> Result<()> {
    run_configured(&both()?, async |mut world| {
        world.pull().await?;
        lives(&mut world, "runc").await?;
        Ok(world)
    })
}

#[test]
fn a_pod_of_crun_lives_and_ends() -> Result<()> {
    let machine = Machine::new()?;
    let program = crun_of(&machine)?;
    let text = format!("[handlers.crun]\npath = \"{program}\"\n");
    run_on(machine, &text, async |mut world| {
        world.pull().await?;
        lives(&mut world, "crun").await?;
        Ok(world)
    })
}

#[test]
fn handlers_are_listed_with_what_they_can_do_and_others_refused() -> Result<()> {
    run_configured(&both()?, async |mut world| {
        let request = v1::StatusRequest { verbose: false };
        let status = world.runtime.status(request).await?.into_inner();
        let names: Vec<&str> = status
            .runtime_handlers
            .iter()
            .map(|handler| handler.name.as_str())
            .collect();
        ensure!(names == ["", "crun", "runc"], "{names:?}");
        for handler in &status.runtime_handlers {
            let features = handler.features.context("features")?;
            let can = match handler.name.as_str() {
                "" => true,
                peer => says_rro(peer)?,
            };
            ensure!(features.recursive_read_only_mounts == can, "{handler:?}");
        }
        let outcome = world.run_handled(world.sandbox("web"), "kata").await;
        refused(outcome, Code::InvalidArgument, "known are: crun, runc")?;
        Ok(world)
    })
}

#[test]
fn a_reload_brings_handlers_and_a_pod_keeps_its_own() -> Result<()> {
    run_configured("[log]\nlevel = \"info\"\n", async |mut world| {
        world.pull().await?;
        let outcome = world.run_handled(world.sandbox("early"), "runc").await;
        refused(outcome, Code::InvalidArgument, "only the default one")?;
        let default = format!("{}[runtime]\ndefault_handler = \"runc\"\n", both()?);
        world.reload(&default)?;
        world.wait_for_log("the configuration was reloaded")?;
        // Who names none gets the operator's choice now.
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let id = world.run_container(&pod, "main", "sleep 1000").await?;
        let of_runc = world.machine.host().run_dir().join("oci-runc").join(&id);
        ensure!(of_runc.exists(), "{}", of_runc.display());
        // And keeps it when the choice is another.
        world.reload("[log]\nlevel = \"debug\"\n[socket]\nmode = \"0600\"\n")?;
        world.wait_for_log("need a restart")?;
        ensure!(world.log_text().contains("socket"), "{}", world.log_text());
        let (text, _) = world.exec(&id, &["echo", "still"]).await?;
        ensure!(text == "still\n", "{text}");
        // A file with a mistake changes nothing.
        world.reload("[log]\nlevle = \"debug\"\n")?;
        world.wait_for_log("the configuration stays as it was")?;
        ensure!(world.log_text().contains("did you mean level?"));
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}
