//! buildah: `run` in a working container, `build` from a Containerfile.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::outcome::{Outcome, finish};

use crate::world::{World, berth, check};

fn buildah(world: &World, words: &[&str]) -> Command {
    let folder = world.folder("buildah");
    let mut command = world.command("buildah");
    command
        .arg("--root")
        .arg(folder.join("root"))
        .arg("--runroot")
        .arg(folder.join("run"))
        .arg("--storage-driver=overlay")
        .args(words);
    command
}

fn call(world: &World, words: &[&str]) -> Result<Outcome> {
    finish(&mut buildah(world, words)).with_context(|| format!("buildah {}", words.join(" ")))
}

fn text(world: &World, words: &[&str]) -> Result<String> {
    let outcome = call(world, words)?;
    outcome
        .text()
        .with_context(|| format!("buildah {}", words.join(" ")))
}

const CONTAINERFILE: &str = "FROM localhost/busybox:1
RUN echo built > /built && id -u
USER 33
RUN id -u; cat /built
";

#[test]
fn run_and_build() {
    check(|world| {
        let archive = format!("docker-archive:{}", world.docker_archive()?.display());
        text(world, &["from", "--name=w", &archive])?;
        let runtime = berth().display().to_string();
        let runtime = runtime.as_str();
        let run = |flags: &[&str], program: &[&str]| {
            let mut words = vec!["run", "--isolation=oci", "--runtime", runtime];
            words.extend(flags);
            words.extend(["w", "--"]);
            words.extend(program);
            call(world, &words)
        };
        let first = run(&[], &["sh", "-c", "echo hi > /hi; id -u; exit 3"])?;
        ensure!((first.code, first.stdout.trim()) == (3, "0"), "{first:?}");
        let missing = run(&[], &["nosuch"])?;
        ensure!(
            missing.complaint()?.contains("executable file not found"),
            "{missing:?}"
        );
        let volume = world.folder("vol");
        world.write("vol/file", "content\n");
        let volume = format!("{}:/v:ro", volume.display());
        let script = "id -u; cat /v/file; grep CapEff /proc/self/status; touch /v/x 2>/dev/null || echo refused";
        let flags = ["--user=33", "--cap-add=CAP_NET_ADMIN", "-v", &volume];
        let seen = run(&flags, &["sh", "-c", script])?.text()?;
        ensure!(
            seen.starts_with("33\ncontent\n") && seen.ends_with("refused"),
            "{seen}"
        );
        let named = run(&["--network=none", "--hostname=called"], &["hostname"])?.text()?;
        ensure!(named == "called", "{named}");
        let terminal = run(&["--terminal"], &["tty"])?.text()?;
        ensure!(terminal == "/dev/pts/0", "{terminal}");
        text(world, &["commit", "-q", "w", "localhost/busybox:1"])?;
        text(world, &["rm", "w"])?;

        world.write("context/Containerfile", CONTAINERFILE);
        let context = world.folder("context").display().to_string();
        let words = [
            "build",
            "--isolation=oci",
            "--runtime",
            runtime,
            "--memory=64m",
            "--network=none",
            "-t=built",
            &context,
        ];
        let built = text(world, &words)?;
        ensure!(built.contains("33\nbuilt"), "{built}");
        text(world, &["rmi", "--all", "--force"])?;
        Ok(())
    });
}
