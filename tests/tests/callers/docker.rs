//! docker: `dockerd` of Debian with berth-oci as its default runtime.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::outcome::{Outcome, finish};
use serde_json::json;

use crate::world::{IMAGE, LIMIT, World, berth, check, eventually};

struct Docker<'a> {
    world: &'a World,
    folder: PathBuf,
}

impl<'a> Docker<'a> {
    /// Without bridge and packet filter, which are no business of a runtime.
    fn start(world: &'a World) -> Result<Docker<'a>> {
        let folder = world.folder("d");
        let at = |name: &str| folder.join(name).display().to_string();
        let config = json!({
            "runtimes": {"berth": {"path": berth()}},
            "default-runtime": "berth",
            "data-root": at("data"),
            "exec-root": at("exec"),
            "pidfile": at("pid"),
            "hosts": [format!("unix://{}", at("sock"))],
            "storage-driver": "vfs",
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-forward": false,
            "oom-score-adjust": 0,
            "deprecated-key-path": at("key.json"),
        });
        let file = world.write("d/daemon.json", &config.to_string());
        let mut command = world.command("dockerd");
        command.arg("--config-file").arg(file);
        world.start_daemon("dockerd", &mut command, &folder.join("sock"))?;
        let docker = Docker { world, folder };
        let archive = world.docker_archive()?;
        eventually(|| docker.text(&["version", "--format={{.Server.Version}}"]))?;
        docker.text(&["load", "-qi", &archive.to_string_lossy()])?;
        Ok(docker)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.command("/usr/bin/docker");
        command
            .args(words)
            .env(
                "DOCKER_HOST",
                format!("unix://{}/sock", self.folder.display()),
            )
            .env("DOCKER_CONFIG", self.folder.join("client"))
            .env("DOCKER_BUILDKIT", "0");
        command
    }

    fn call(&self, words: &[&str]) -> Result<Outcome> {
        finish(&mut self.command(words)).with_context(|| format!("docker {}", words.join(" ")))
    }

    fn text(&self, words: &[&str]) -> Result<String> {
        let outcome = self.call(words)?;
        outcome
            .text()
            .with_context(|| format!("docker {}", words.join(" ")))
    }

    fn run(&self, flags: &[&str], program: &[&str]) -> Result<Outcome> {
        let mut words = vec!["run", "--rm", "--network=none"];
        words.extend(flags);
        words.push(IMAGE);
        words.extend(program);
        self.call(&words)
    }

    fn same(&self, words: &[&str], wanted: &str) -> Result<()> {
        let found = self.text(words)?;
        ensure!(
            found == wanted,
            "docker {}: found {found:?}, wanted {wanted:?}",
            words.join(" ")
        );
        Ok(())
    }
}

#[test]
fn docker_works_as_ever() {
    check(|world| {
        let docker = Docker::start(world)?;
        let info = docker.text(&[
            "info",
            "--format={{.DefaultRuntime}} {{.Runtimes.berth.Path}}",
        ])?;
        ensure!(info == format!("berth {}", berth().display()), "{info}");
        once(&docker)?;
        whole_life(&docker)?;
        terminal(&docker)?;
        build(&docker)?;
        restart_and_memory(&docker)?;
        let all = docker.text(&["ps", "-aq"])?;
        ensure!(all.is_empty(), "containers are left: {all}");
        Ok(())
    });
}

/// What docker's `run` passes on, and the codes 126 and 127.
fn once(docker: &Docker<'_>) -> Result<()> {
    for (program, code) in [("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126)] {
        let outcome = docker.run(&[], &[program])?;
        ensure!(outcome.code == code, "{program}: {outcome:?}");
    }
    let script = "touch /t/x; id -u; cat /sys/fs/cgroup/cpuset/cpuset.cpus /sys/fs/cgroup/cpu/cpu.shares; \
        ulimit -n; hostname; df -k /dev/shm | awk 'NR>1 {print $2}'; cat /proc/sys/net/ipv4/ip_forward; \
        grep CapEff /proc/self/status; cat /proc/1/comm; echo x >/dev/other; touch /x";
    let flags = [
        "--read-only",
        "--tmpfs=/t:size=1m,mode=1777",
        "--user=www-data",
        "--cap-drop=all",
        "--cpuset-cpus=0",
        "--cpu-shares=512",
        "--ulimit=nofile=100:200",
        "--hostname=called",
        "--shm-size=1m",
        "--sysctl=net.ipv4.ip_forward=1",
        "--init",
        "--security-opt=no-new-privileges",
        "--device=/dev/null:/dev/other",
    ];
    let seen = docker.run(&flags, &["sh", "-c", script])?;
    let wanted = "33\n0\n512\n100\ncalled\n1024\n1\nCapEff:\t0000000000000000\ndocker-init\n";
    ensure!((seen.code, seen.stdout.as_str()) == (1, wanted), "{seen:?}");
    let status = ["grep", "Seccomp:", "/proc/self/status"];
    for (flag, mode) in [
        ("--security-opt=seccomp=unconfined", "0"),
        ("--privileged", "0"),
        ("--read-only", "2"),
    ] {
        let seen = docker.run(&[flag], &status)?.text()?;
        ensure!(seen == format!("Seccomp:\t{mode}"), "{flag}: {seen}");
    }
    let folder = docker.world.folder("vol").display().to_string();
    let volume = format!("{folder}:/v:ro");
    let refused = docker.run(&["-v", &volume], &["touch", "/v/x"])?;
    ensure!(refused.complaint()?.contains("Read-only"), "{refused:?}");
    let hosts = docker.run(
        &["--pid=host", "--uts=host", "--ipc=host"],
        &["sh", "-c", "[ $$ -gt 50 ]"],
    )?;
    ensure!(hosts.code == 0, "{hosts:?}");
    Ok(())
}

fn whole_life(docker: &Docker<'_>) -> Result<()> {
    let script = "trap 'exit 5' USR1; echo out; echo err >&2; while :; do sleep 0.1; done";
    docker.text(&[
        "run",
        "-d",
        "--network=none",
        "--name=one",
        "--memory=64m",
        "--pids-limit=50",
        IMAGE,
        "sh",
        "-c",
        script,
    ])?;
    eventually(|| docker.same(&["logs", "one"], "out"))?;
    docker.same(
        &[
            "exec",
            "-u33",
            "-w/tmp",
            "-eA=b",
            "one",
            "sh",
            "-c",
            "id -u; pwd; echo $A",
        ],
        "33\n/tmp\nb",
    )?;
    let code = docker.call(&["exec", "one", "sh", "-c", "exit 7"])?.code;
    ensure!(code == 7, "exec's exit code is {code}");
    let missing = docker.call(&["exec", "one", "nosuch"])?;
    ensure!(
        missing.code == 126 && missing.stdout.contains("executable file not found"),
        "{missing:?}"
    );
    docker.text(&["exec", "-d", "one", "sleep", "500"])?;
    eventually(|| {
        let top = docker.text(&["top", "one", "-o", "pid,args"])?;
        ensure!(top.contains("sleep 500"), "{top}");
        Ok(())
    })?;
    docker.text(&["pause", "one"])?;
    docker.same(&["inspect", "one", "--format={{.State.Status}}"], "paused")?;
    docker.text(&["unpause", "one"])?;
    docker.text(&[
        "update",
        "--memory=32m",
        "--memory-swap=32m",
        "--cpus=0.5",
        "one",
    ])?;
    let limits = [
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    ];
    docker.same(
        &["exec", "one", "cat", limits[0], limits[1]],
        "33554432\n50000",
    )?;
    let stats = docker.text(&[
        "stats",
        "--no-stream",
        "--format={{.Name}} {{.MemUsage}}",
        "one",
    ])?;
    ensure!(
        stats.starts_with("one ") && stats.ends_with("/ 32MiB"),
        "{stats}"
    );
    let file = docker.world.write("vol/file", "content\n");
    docker.text(&["cp", file.to_str().unwrap(), "one:/tmp/"])?;
    docker.same(&["exec", "one", "cat", "/tmp/file"], "content")?;
    docker.text(&["restart", "-t0", "one"])?;
    eventually(|| docker.same(&["logs", "one"], "out\nout"))?;
    docker.text(&["kill", "-sUSR1", "one"])?;
    docker.same(&["wait", "one"], "5")?;
    docker.text(&["start", "one"])?;
    docker.text(&["stop", "-t0", "one"])?;
    docker.same(&["inspect", "one", "--format={{.State.ExitCode}}"], "137")?;
    docker.text(&["rm", "one"]).map(drop)
}

fn terminal(docker: &Docker<'_>) -> Result<()> {
    let words = [
        "run",
        "-it",
        "--rm",
        "--network=none",
        "--name=typed",
        IMAGE,
        "sh",
    ];
    let mut shell = docker.world.terminal(&docker.command(&words))?;
    shell.wait_for("/ #", LIMIT)?;
    let words = ["exec", "-it", "typed", "sh"];
    let mut second = docker.world.terminal(&docker.command(&words))?;
    second.wait_for("/ #", LIMIT)?;
    second.type_keys("tty; exit 4\n")?;
    second.wait_for("/dev/pts/1", LIMIT)?;
    let code = second.wait(LIMIT)?.code();
    ensure!(code == Some(4), "exec -it ended with {code:?}");
    shell.resize(100, 30)?;
    shell.type_keys("until stty size | grep '30 100'; do sleep 0.1; done; exit 6\n")?;
    shell.wait_for("30 100\n", LIMIT)?;
    let code = shell.wait(LIMIT)?.code();
    ensure!(code == Some(6), "run -it ended with {code:?}");
    Ok(())
}

const DOCKERFILE: &str = r#"FROM localhost/busybox:1
RUN echo built > /built && id -u
USER 33
RUN id -u; cat /built
HEALTHCHECK --interval=1s --retries=1 CMD test -e /tmp/well
CMD ["sh", "-c", "touch /tmp/well; exec sleep 1000"]
"#;

fn build(docker: &Docker<'_>) -> Result<()> {
    docker.world.write("context/Dockerfile", DOCKERFILE);
    let context = docker.world.folder("context").display().to_string();
    let built = docker.text(&["build", "--network=none", "-t=built", &context])?;
    ensure!(built.contains("\n33\nbuilt\n"), "{built}");
    docker.text(&["run", "-d", "--network=none", "--name=well", "built"])?;
    let health = ["inspect", "well", "--format={{.State.Health.Status}}"];
    eventually(|| docker.same(&health, "healthy"))?;
    docker.text(&["exec", "well", "rm", "/tmp/well"])?;
    eventually(|| docker.same(&health, "unhealthy"))?;
    docker.text(&["rm", "-f", "well"]).map(drop)
}

fn restart_and_memory(docker: &Docker<'_>) -> Result<()> {
    docker.text(&[
        "run",
        "-d",
        "--network=none",
        "--name=again",
        "--restart=on-failure:2",
        IMAGE,
        "false",
    ])?;
    let count = [
        "inspect",
        "again",
        "--format={{.RestartCount}} {{.State.Status}}",
    ];
    eventually(|| docker.same(&count, "2 exited"))?;
    let hungry = "head -c 64m /dev/zero | tr '\\0' a | sort";
    let words = [
        "run",
        "--network=none",
        "--name=hungry",
        "--memory=8m",
        "--memory-swap=8m",
        IMAGE,
        "sh",
        "-c",
        hungry,
    ];
    docker.call(&words)?;
    docker.same(
        &["inspect", "hungry", "--format={{.State.OOMKilled}}"],
        "true",
    )?;
    docker.text(&["rm", "-f", "again", "hungry"]).map(drop)
}
