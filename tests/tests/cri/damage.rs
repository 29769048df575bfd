//! A store that is damaged, of another version, or full: a clear error, and what
//! is sound is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::machine::Machine;
use tonic::Code;

use crate::world::{World, refused, run, run_on};

fn records(machine: &Machine) -> PathBuf {
    machine.host().data_dir().join("pods")
}

/// A pod with one container that runs.
async fn pod(world: &mut World, name: &str) -> Result<(String, String)> {
    let pod = world.run_sandbox(world.sandbox(name)).await?;
    let id = world.run_container(&pod, name, "exec sleep 1000").await?;
    Ok((pod, id))
}

async fn listed(world: &mut World) -> Result<Vec<String>> {
    let request = v1::ListPodSandboxRequest::default();
    let list = world.runtime.list_pod_sandbox(request).await?.into_inner();
    Ok(list.items.into_iter().map(|item| item.id).collect())
}

/// Changes the text of a file.
fn edit(path: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let text = fs::read_to_string(path)?;
    fs::write(path, change(text)).with_context(|| path.display().to_string())
}

#[test]
fn damaged_records_are_named_and_the_others_live_on() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let (sound, runs) = pod(&mut world, "sound").await?;
        let (cut, _) = pod(&mut world, "cut").await?;
        let (garbage, _) = pod(&mut world, "garbage").await?;
        let (unreadable, _) = pod(&mut world, "unreadable").await?;
        let broken = world.run_container(&sound, "broken", "sleep 1000").await?;
        let folder = records(&world.machine);
        let file = |pod: &str| folder.join(pod).join("pod.json");
        world
            .kill_and_restart_after(|_| {
                edit(&file(&cut), |text| text[..text.len() / 2].to_owned())?;
                fs::write(file(&garbage), [0xff, 0x00, 0x7b])?;
                // What even root cannot read.
                fs::remove_file(file(&unreadable))?;
                fs::create_dir(file(&unreadable))?;
                let container = folder.join(&sound).join("containers");
                fs::write(container.join(format!("{broken}.json")), "")?;
                Ok(())
            })
            .await?;
        // The sound one is there and does what it is asked to.
        ensure!(listed(&mut world).await? == std::slice::from_ref(&sound));
        let (text, _) = world.exec(&runs, &["echo", "well"]).await?;
        ensure!(text == "well\n", "{text}");
        // Each damaged file is named, in the log and to who asks for it.
        let log = world.log_text();
        for pod in [&cut, &garbage, &unreadable] {
            let path = file(pod).display().to_string();
            ensure!(log.contains(&path), "{path} is not named in:\n{log}");
            let status = v1::PodSandboxStatusRequest {
                pod_sandbox_id: pod.clone(),
                verbose: false,
            };
            let outcome = world.runtime.pod_sandbox_status(status).await;
            refused(outcome, Code::Unknown, &path)?;
        }
        let outcome = world.status(&broken).await.unwrap_err().to_string();
        ensure!(outcome.contains(&format!("{broken}.json")), "{outcome}");
        // New ones are made meanwhile.
        let (new, _) = pod(&mut world, "new").await?;
        world.remove_sandbox(&new).await?;
        // And who names a damaged one can take it away, wholly.
        for pod in [&cut, &garbage, &unreadable] {
            world.remove_sandbox(pod).await?;
            ensure!(!folder.join(pod).exists(), "{pod} is still on record");
        }
        let container_id = broken.clone();
        let request = v1::RemoveContainerRequest { container_id };
        world.runtime.remove_container(request).await?;
        world.remove_sandbox(&sound).await?;
        Ok(world)
    })
}

#[test]
fn a_record_of_another_version_is_left_to_that_version() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let (sound, _) = pod(&mut world, "sound").await?;
        let (other, runs) = pod(&mut world, "other").await?;
        let file = records(&world.machine).join(&other).join("pod.json");
        let version =
            |from: &'static str, to: &'static str| move |text: String| text.replacen(from, to, 1);
        let (now, then) = ("\"format\": 1", "\"format\": 7");
        world
            .kill_and_restart_after(|_| edit(&file, version(now, then)))
            .await?;
        ensure!(listed(&mut world).await? == std::slice::from_ref(&sound));
        let log = world.log_text();
        ensure!(
            log.contains("has format 7, this program reads format 1"),
            "{log}"
        );
        // It is not ours to end.
        let pod_sandbox_id = other.clone();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        let outcome = world.runtime.remove_pod_sandbox(request).await;
        refused(outcome, Code::Unimplemented, "has format 7")?;
        // The version that wrote it finds all as it was.
        world
            .kill_and_restart_after(|_| edit(&file, version(then, now)))
            .await?;
        let (text, _) = world.exec(&runs, &["echo", "well"]).await?;
        ensure!(text == "well\n", "{text}");
        world.remove_sandbox(&other).await?;
        world.remove_sandbox(&sound).await?;
        Ok(world)
    })
}

#[test]
fn a_full_disk_is_told_of_and_pods_can_still_be_removed() -> Result<()> {
    let machine = Machine::new()?;
    let folder = records(&machine);
    fs::create_dir_all(&folder)?;
    let within = |machine: &Machine, words: &[&str]| -> Result<()> {
        let status = machine
            .host()
            .command(words[0])
            .args(&words[1..])
            .status()?;
        ensure!(status.success(), "{words:?}: {status}");
        Ok(())
    };
    let path = folder.display().to_string();
    within(
        &machine,
        &["mount", "-t", "tmpfs", "-o", "size=1m", "small", &path],
    )?;
    run_on(machine, "[log]\nlevel = \"info\"\n", async |mut world| {
        world.pull().await?;
        let (there, id) = pod(&mut world, "there").await?;
        let (leaves, _) = pod(&mut world, "leaves").await?;
        let fill = format!("cat /dev/zero >{path}/fill 2>/dev/null; true");
        within(&world.machine, &["sh", "-c", &fill])?;
        let outcome = world.run_handled(world.sandbox("late"), "").await;
        refused(outcome, Code::Unknown, "No space left on device")?;
        // Nothing is left of it, and what was there runs.
        ensure!(listed(&mut world).await?.len() == 2);
        let (text, _) = world.exec(&id, &["echo", "well"]).await?;
        ensure!(text == "well\n", "{text}");
        // What fills a disk can be taken away.
        let pod_sandbox_id = leaves.clone();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        world.runtime.remove_pod_sandbox(request).await?;
        ensure!(listed(&mut world).await? == std::slice::from_ref(&there));
        // A server starts on a full disk too, and finds the pod.
        world.kill_and_restart().await?;
        ensure!(listed(&mut world).await? == std::slice::from_ref(&there));
        within(&world.machine, &["rm", &format!("{path}/fill")])?;
        let late = world.run_sandbox(world.sandbox("late")).await?;
        world.remove_sandbox(&late).await?;
        world.remove_sandbox(&there).await?;
        within(&world.machine, &["umount", "-l", &path])?;
        Ok(world)
    })
}

#[test]
fn a_damaged_list_of_images_is_named_and_pods_live_on() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let (pod, id) = pod(&mut world, "web").await?;
        let index = world.machine.host().data_dir().join("images/index.json");
        let before = fs::read(&index)?;
        world
            .kill_and_restart_after(|_| Ok(fs::write(&index, &before[..before.len() / 2])?))
            .await?;
        let list = v1::ListImagesRequest::default();
        let outcome = world.images.list_images(list).await;
        refused(outcome, Code::Unknown, &index.display().to_string())?;
        let (text, _) = world.exec(&id, &["echo", "well"]).await?;
        ensure!(text == "well\n", "{text}");
        world.remove_sandbox(&pod).await?;
        // Taken away, the images are pulled anew.
        fs::remove_file(&index)?;
        world.pull().await?;
        Ok(world)
    })
}
