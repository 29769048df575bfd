//! The server's file: written out, checked, and honoured.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::machine::Machine;
use tonic::Code;

use crate::world::{refused, run_configured, socket};

#[test]
fn the_written_file_is_sound_and_a_mistake_is_named() -> Result<()> {
    let machine = Machine::new()?;
    let text = machine.berth(&["cri", "config", "default"])?;
    let file = machine.write("default.toml", &text)?;
    let file = file.display().to_string();
    ensure!(
        machine
            .berth(&["cri", "config", "check", &file])?
            .is_empty()
    );
    let wrong = text.replace("idle_timeout = \"4h\"", "idle_timout = \"4h\"");
    let wrong = machine.write("wrong.toml", &wrong)?.display().to_string();
    let said = machine.berth_fails(1, &["cri", "config", "check", &wrong])?;
    ensure!(
        said.contains("wrong.toml:") && said.contains("did you mean idle_timeout?"),
        "{said}"
    );
    // A server does not start with it.
    let said = machine.berth_fails(1, &["cri", "--config", &wrong])?;
    ensure!(said.contains("nothing was started"), "{said}");
    let missing = "[handlers.x]\npath = \"/nowhere/oci\"\n";
    let missing = machine
        .write("missing.toml", missing)?
        .display()
        .to_string();
    let said = machine.berth_fails(1, &["cri", "config", "check", &missing])?;
    ensure!(said.contains("handlers.x.path: /nowhere/oci"), "{said}");
    let said = machine.berth_fails(1, &["cri", "config", "check", "/nowhere.toml"])?;
    ensure!(said.contains("read /nowhere.toml: No such file"), "{said}");
    machine.assert_clean()
}

#[test]
fn what_the_file_says_is_done() -> Result<()> {
    let text = "[socket]\nmode = \"0600\"\ngroup = \"daemon\"\n\
                [network]\nbridge = \"berth7\"\nsubnets = [\"10.89.1.0/24\"]\n\
                [log]\nformat = \"json\"\nlevel = \"debug\"\n\
                [defaults]\npids_limit = 77\ncapabilities = [\"CHOWN\"]\n\
                seccomp_profile = \"PROFILE\"\n";
    let profile = tempfile::NamedTempFile::new()?;
    // A filter that is known by what it refuses.
    let filter = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": \
                  [\"mkdir\", \"mkdirat\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 38}]}";
    std::fs::write(profile.path(), filter)?;
    let text = text.replace("PROFILE", &profile.path().display().to_string());
    run_configured(&text, async |mut world| {
        let file = std::fs::metadata(socket(&world.machine))?;
        ensure!(file.permissions().mode() & 0o777 == 0o600);
        ensure!(file.gid() == 1, "the group daemon has number 1 on Debian");
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let told = world
            .runtime
            .pod_sandbox_status(v1::PodSandboxStatusRequest {
                pod_sandbox_id: pod.clone(),
                verbose: false,
            })
            .await?
            .into_inner();
        let network = told
            .status
            .context("a status")?
            .network
            .context("a network")?;
        ensure!(network.ip.starts_with("10.89.1."), "{network:?}");
        ensure!(network.additional_ips.is_empty(), "{network:?}");
        let script = "grep CapBnd /proc/self/status | cut -f2; \
                      cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
                      mkdir /x 2>&1 || true";
        let mut config = world.container("main", script);
        let context = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        context.seccomp = Some(v1::SecurityProfile::default());
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        world.wait_exited(&id).await?;
        let log = std::fs::read_to_string(world.logs().join("main.log"))?;
        ensure!(log.contains(" F 0000000000000001\n"), "{log}");
        ensure!(log.contains("not implemented"), "{log}");
        let config_file = world
            .machine
            .host()
            .run_dir()
            .join("pods")
            .join(&pod)
            .join("containers")
            .join(&id)
            .join("config.json");
        let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(config_file)?)?;
        ensure!(spec["linux"]["resources"]["pids"]["limit"] == 77, "{spec}");
        world.remove_sandbox(&pod).await?;
        let first = world.log_text();
        let first = first.lines().next().context("it says something")?;
        let line: serde_json::Value = serde_json::from_str(first)?;
        ensure!(line["level"].is_string(), "{line}");
        Ok(world)
    })
}

/// On a machine with systemd the driver is there, and a start would succeed.
#[test]
fn a_driver_that_cannot_be_had_is_refused_at_the_start() -> Result<()> {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        eprintln!("systemd runs here: its absence was not judged");
        return Ok(());
    }
    let machine = Machine::new()?;
    let text = "[runtime]\ncgroup_driver = \"systemd\"\n";
    let file = machine.write("cri.toml", text)?.display().to_string();
    let said = machine.berth_fails(1, &["cri", "--config", &file])?;
    ensure!(
        said.contains("runtime.cgroup_driver: \"systemd\" cannot be had; nothing was started"),
        "{said}"
    );
    machine.assert_clean()?;
    run_configured("", async |mut world| {
        // A slice under the other driver is named, with the key that decides.
        let mut config = world.sandbox("web");
        let parent = "kubepods-besteffort-podx.slice".to_owned();
        config.linux.get_or_insert_default().cgroup_parent = parent;
        let outcome = world.run_handled(config, "").await;
        refused(outcome, Code::Unimplemented, "runtime.cgroup_driver")?;
        Ok(world)
    })
}
