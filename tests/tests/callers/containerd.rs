//! containerd, through its shim for runc with berth-oci as the shim's program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::outcome::{Outcome, finish};

use crate::world::{IMAGE, LIMIT, World, berth, check, eventually};

/// Everything that containerd would keep elsewhere is in the machine's folder.
const CONFIG: &str = r#"version = 2
root = "@/root"
state = "@/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "@/containerd.sock"
[ttrpc]
address = "@/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "@/opt"
"#;

struct Containerd<'a> {
    world: &'a World,
    socket: PathBuf,
    runtime: String,
}

impl<'a> Containerd<'a> {
    fn start(world: &'a World) -> Result<Containerd<'a>> {
        // The shim's socket has a path of its own below /run; this one must be
        // short enough for sockaddr_un.
        let folder = world.folder("c");
        let text = CONFIG.replace('@', &folder.to_string_lossy());
        let file = world.write("c/config.toml", &text);
        let socket = folder.join("containerd.sock");
        let mut command = world.command("containerd");
        command.arg("--config").arg(file);
        world.start_daemon("containerd", &mut command, &socket)?;
        let containerd = Containerd {
            world,
            socket,
            runtime: berth().display().to_string(),
        };
        let archive = world.oci_archive()?;
        eventually(|| containerd.text(&["images", "import", &archive.to_string_lossy()]))?;
        Ok(containerd)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.command("ctr");
        command.arg("--address").arg(&self.socket).args(words);
        command
    }

    fn call(&self, words: &[&str]) -> Result<Outcome> {
        finish(&mut self.command(words)).with_context(|| format!("ctr {}", words.join(" ")))
    }

    fn text(&self, words: &[&str]) -> Result<String> {
        let outcome = self.call(words)?;
        outcome
            .text()
            .with_context(|| format!("ctr {}", words.join(" ")))
    }

    /// `ctr run` to the program's end.
    fn run(&self, flags: &[&str], program: &[&str]) -> Result<Outcome> {
        let mut words = vec!["run", "--rm", "--runc-binary", &self.runtime];
        words.extend(flags);
        words.extend([IMAGE, "once"]);
        words.extend(program);
        self.call(&words)
    }

    /// A container in the background.
    fn start_container(&self, id: &str, program: &[&str]) -> Result<()> {
        let mut words = vec!["run", "-d", "--runc-binary", &self.runtime, IMAGE, id];
        words.extend(program);
        self.text(&words).map(drop)
    }

    fn wait_for(&self, id: &str, status: &str) -> Result<()> {
        eventually(|| {
            let tasks = self.text(&["task", "ls"])?;
            let found = tasks.lines().find(|line| line.starts_with(id));
            let found = found.unwrap_or_default();
            ensure!(found.ends_with(status), "{status} is awaited: {tasks}");
            Ok(())
        })
    }

    fn remove(&self, id: &str) -> Result<()> {
        // `task rm` ends with the container's own exit code.
        self.call(&["task", "rm", "--force", id])?;
        self.text(&["container", "rm", id]).map(drop)
    }
}

#[test]
fn ctr_runs_tasks() {
    check(|world| {
        let containerd = Containerd::start(world)?;
        once(&containerd)?;
        task(&containerd)?;
        terminal(&containerd)?;
        containerd.start_container("forced", &["sleep", "1000"])?;
        containerd.remove("forced")?;
        containerd.start_container("all", &["sleep", "1000"])?;
        containerd.text(&["task", "kill", "--signal=KILL", "--all", "all"])?;
        containerd.wait_for("all", "STOPPED")?;
        containerd.remove("all")
    });
}

/// The lines of the page that a reader copies.
#[test]
fn the_documented_configuration_is_containerds() {
    check(|world| {
        let page = include_str!("../../../docs/oci.md");
        let section = page.split("## With containerd").nth(1);
        let lines = section.and_then(|text| text.split("```toml\n").nth(1)?.split("```").next());
        let lines = lines.context("docs/oci.md has no TOML for containerd")?;
        let (version, plugins) = lines.split_once('\n').context("it is one line")?;
        let folder = world.folder("c");
        let place = folder.to_string_lossy();
        let rest = CONFIG
            .replace("version = 2\n", "")
            .replace("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", "");
        ensure!(version == "version = 2", "{version}");
        let text = format!("{version}\n{rest}{plugins}").replace('@', &place);
        let file = world.write("c/config.toml", &text);
        let mut command = world.command("containerd");
        command.arg("--config").arg(&file).args(["config", "dump"]);
        let dump = finish(&mut command)?.text()?;
        for wanted in [
            "default_runtime_name = \"berth\"",
            "runtimes.berth.options]",
            "BinaryName = \"/usr/local/bin/berth-oci\"",
        ] {
            ensure!(dump.contains(wanted), "{wanted} is not in {dump}");
        }
        let socket = folder.join("containerd.sock");
        let mut command = world.command("containerd");
        command.arg("--config").arg(&file);
        world.start_daemon("containerd", &mut command, &socket)?;
        let mut command = world.command("ctr");
        command
            .arg("--address")
            .arg(&socket)
            .args(["plugins", "ls"]);
        let plugins = eventually(|| finish(&mut command)?.text())?;
        let cri = plugins
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.get(1) == Some(&"cri"));
        ensure!(
            cri.is_some_and(|words| words.last() == Some(&"ok")),
            "{plugins}"
        );
        Ok(())
    });
}

fn once(containerd: &Containerd<'_>) -> Result<()> {
    let hello = containerd.run(&[], &["echo", "hello"])?.text()?;
    ensure!(hello == "hello", "{hello}");
    let code = containerd.run(&[], &["sh", "-c", "exit 4"])?.code;
    ensure!(code == 4, "the exit code is {code}");
    let missing = containerd.run(&[], &["nosuch"])?;
    ensure!(
        missing.complaint()?.contains("executable file not found"),
        "{missing:?}"
    );
    let script =
        "echo $A; pwd; grep Seccomp: /proc/self/status; grep :memory: /proc/self/cgroup; touch /x";
    let flags = [
        "--read-only",
        "--env=A=b",
        "--cwd=/tmp",
        "--seccomp",
        "--memory-limit=67108864",
        "--cpus=0.5",
    ];
    let seen = containerd.run(&flags, &["sh", "-c", script])?;
    ensure!(
        seen.code == 1 && seen.stdout.starts_with("b\n/tmp\nSeccomp:\t2\n"),
        "{seen:?}"
    );
    ensure!(seen.stdout.contains("/default/once"), "{seen:?}");
    let inside = containerd.run(&["--no-pivot"], &["ls", "/"])?.text()?;
    ensure!(inside.contains("bin"), "{inside}");
    Ok(())
}

fn task(containerd: &Containerd<'_>) -> Result<()> {
    let script = "trap 'exit 5' USR1; while :; do sleep 0.1; done";
    containerd.start_container("long", &["sh", "-c", script])?;
    containerd.wait_for("long", "RUNNING")?;
    let exec = |id: &str, flags: &[&str], program: &[&str]| {
        let mut words = vec!["task", "exec", "--exec-id", id];
        words.extend(flags);
        words.push("long");
        words.extend(program);
        containerd.call(&words)
    };
    let inside = exec(
        "one",
        &["--user=33", "--cwd=/tmp"],
        &["sh", "-c", "id -u; pwd"],
    )?
    .text()?;
    ensure!(inside == "33\n/tmp", "{inside}");
    let code = exec("two", &[], &["sh", "-c", "exit 6"])?.code;
    ensure!(code == 6, "exec's exit code is {code}");
    let missing = exec("three", &[], &["nosuch"])?;
    ensure!(
        missing.complaint()?.contains("executable file not found"),
        "{missing:?}"
    );
    let processes = containerd.text(&["task", "ps", "long"])?;
    ensure!(processes.lines().count() >= 2, "{processes}");
    containerd.text(&["task", "pause", "long"])?;
    containerd.wait_for("long", "PAUSED")?;
    containerd.text(&["task", "resume", "long"])?;
    containerd.wait_for("long", "RUNNING")?;
    let metrics = containerd.text(&["task", "metrics", "long"])?;
    for name in ["memory.usage_in_bytes", "cpuacct.usage", "pids.current"] {
        ensure!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let refused = containerd.call(&["task", "checkpoint", "long"])?;
    ensure!(refused.complaint()?.contains("checkpoint"), "{refused:?}");
    containerd.text(&["task", "kill", "--signal=USR1", "long"])?;
    containerd.wait_for("long", "STOPPED")?;
    let ended = containerd.call(&["task", "rm", "long"])?;
    ensure!(ended.stderr.contains("exit code 5"), "{ended:?}");
    containerd.text(&["container", "rm", "long"]).map(drop)
}

fn terminal(containerd: &Containerd<'_>) -> Result<()> {
    let words = [
        "run",
        "--rm",
        "--tty",
        "--runc-binary",
        &containerd.runtime,
        IMAGE,
        "typed",
        "sh",
    ];
    let mut shell = containerd.world.terminal(&containerd.command(&words))?;
    shell.wait_for("/ #", LIMIT)?;
    shell.type_keys("tty; stty size\n")?;
    shell.wait_for("/dev/pts/0\n24 80", LIMIT)?;
    shell.type_keys("exit 7\n")?;
    let code = shell.wait(LIMIT)?.code();
    ensure!(code == Some(7), "the shell ended with {code:?}");
    Ok(())
}
