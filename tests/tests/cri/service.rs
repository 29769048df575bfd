//! `berth cri` under a service manager: its socket, its words, its watchdog.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{answering, run, socket};

/// How long a word of the server's may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a service manager gives and hears.
struct Manager {
    words: UnixDatagram,
}

impl Manager {
    fn on(path: &Path) -> Result<Manager> {
        let words = UnixDatagram::bind(path)?;
        words.set_read_timeout(Some(stretched(PATIENCE)))?;
        Ok(Manager { words })
    }

    /// Waits for a message that begins so; what came before it does not matter.
    fn hears(&self, begin: &str) -> Result<String> {
        let mut buffer = [0; 4096];
        // Its other words, as of the watchdog, never end.
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            ensure!(Instant::now() < deadline, "{begin} was not said");
            let read = self
                .words
                .recv(&mut buffer)
                .with_context(|| format!("{begin} was not said"))?;
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if text.starts_with(begin) {
                return Ok(text);
            }
        }
    }
}

/// A server as systemd starts it: its socket is descriptor 3.
fn start(machine: &Machine, listener: UnixListener, listen_pid: &str) -> Result<Child> {
    let own = machine.host().work_dir().join("own.sock");
    let server = machine.command(&["cri", "--socket", &own.display().to_string()]);
    let mut words: Vec<String> = vec![server.get_program().to_string_lossy().into_owned()];
    words.extend(
        server
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    // A shell's exec keeps its number, which LISTEN_PID has to be.
    let script =
        format!("exec 3<&0 </dev/null; export LISTEN_PID={listen_pid} LISTEN_FDS=1; exec \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("sh").args(words);
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let notify = machine.host().work_dir().join("notify");
    command
        .env("NOTIFY_SOCKET", notify)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .process_group(0);
    command.spawn().context("start the server")
}

fn end(mut server: Child) -> Result<()> {
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM)?;
    let status = server.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

async fn version(path: &Path) -> Result<()> {
    answering(path, Duration::from_secs(10)).await.map(drop)
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[test]
fn a_socket_that_was_handed_over_is_served_and_stays() -> Result<()> {
    let machine = Machine::new()?;
    let folder = machine.host().work_dir();
    let manager = Manager::on(&folder.join("notify"))?;
    let path = folder.join("systemd.sock");
    let listener = UnixListener::bind(&path)?;
    let server = start(&machine, listener.try_clone()?, "$$")?;
    manager.hears("READY=1")?;
    block_on(version(&path))?;
    ensure!(
        !folder.join("own.sock").exists(),
        "the handed over one wins"
    );
    // The watchdog is answered again and again.
    manager.hears("WATCHDOG=1")?;
    manager.hears("WATCHDOG=1")?;
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGHUP)?;
    manager.hears("RELOADING=1\nMONOTONIC_USEC=")?;
    manager.hears("READY=1")?;
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM)?;
    manager.hears("STOPPING=1")?;
    end(server)?;
    ensure!(path.exists(), "the socket is the manager's");
    // Who connects while no server runs is served by the next one.
    let next = start(&machine, listener, "$$")?;
    block_on(version(&path))?;
    end(next)?;
    machine.assert_clean()
}

#[test]
fn a_socket_for_another_process_is_left_alone() -> Result<()> {
    let machine = Machine::new()?;
    let folder = machine.host().work_dir();
    let manager = Manager::on(&folder.join("notify"))?;
    let path = folder.join("systemd.sock");
    let server = start(&machine, UnixListener::bind(&path)?, "1")?;
    manager.hears("READY=1")?;
    block_on(version(&folder.join("own.sock")))?;
    end(server)?;
    machine.assert_clean()
}

#[test]
fn the_log_says_more_when_it_is_asked_to() -> Result<()> {
    run(async |mut world| {
        let path = socket(&world.machine).display().to_string();
        let ask = |words: &[&str]| {
            let words = [&["cri", "log-level"], words, &["--socket", &path]].concat();
            world.machine.berth(&words)
        };
        ensure!(ask(&[])? == "info\n");
        let before = world.log_text();
        ensure!(!before.contains("DEBUG"), "{before}");
        ask(&["debug"])?;
        ensure!(ask(&[])? == "debug\n");
        world.wait_for_log("the log's level was changed by hand")?;
        let wrong = world.machine.output(&["cri", "log-level", "loud"])?;
        ensure!(!wrong.status.success());
        let nobody = ["cri", "log-level", "--socket", "/nowhere.sock"];
        let said = world.machine.berth_fails(1, &nobody)?;
        ensure!(
            said.contains("no server answers on /nowhere.sock"),
            "{said}"
        );
        Ok(world)
    })
}

/// systemd's own judge of units, where the machine has it.
#[test]
fn the_units_are_sound() -> Result<()> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let folder = tempfile::tempdir()?;
    for name in ["berth-cri.service", "berth-cri.socket"] {
        let text = std::fs::read_to_string(units.join(name))?;
        for needed in ["[Unit]", "Description="] {
            ensure!(text.contains(needed), "{name} lacks {needed}");
        }
        // The judge looks for the program, which need not be installed here.
        let text = text.replace("/usr/local/bin/berth", "/bin/true");
        std::fs::write(folder.path().join(name), text)?;
    }
    let service = std::fs::read_to_string(units.join("berth-cri.service"))?;
    for needed in [
        "Type=notify",
        "KillMode=process",
        "Delegate=yes",
        "WatchdogSec=",
    ] {
        ensure!(service.contains(needed), "{needed} is missing");
    }
    let judged = Command::new("systemd-analyze")
        .arg("verify")
        // The pages that the units name need not be on the machine.
        .args(["--man=no", "./berth-cri.service", "./berth-cri.socket"])
        .current_dir(folder.path())
        .output();
    match judged {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success() && said.trim().is_empty(), "{said}");
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("systemd-analyze is not here: it did not judge the units");
            Ok(())
        }
        Err(error) => bail!("systemd-analyze: {error}"),
    }
}
