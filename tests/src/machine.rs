//! A host with a registry that holds the examples' images, and `berth` on it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host::{Host, write_program};
use crate::image::examples;
use crate::patience::stretched;
use crate::registry::{Access, Registry};
use crate::sweep::Sweep;
use crate::terminal::Terminal;

/// How long a command may take that waits for nothing.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A throw-away machine on which `berth` finds its images.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: the registry lives inside the host.
    registry: Registry,
    before: Sweep,
    host: Host,
}

impl Machine {
    /// Makes the host, fills the registry, points `berth` at it. Needs root.
    ///
    /// # Errors
    ///
    /// The caller is not root, or a package of the examples is missing.
    pub fn new() -> Result<Machine> {
        Machine::with_images(|registry| {
            examples::push_all(registry)?;
            Ok(registry.mirror_configuration())
        })
    }

    /// The same with other images: `fill` pushes them and gives the
    /// `registries.toml` by which they are found.
    ///
    /// # Errors
    ///
    /// The caller is not root, or those of `fill`.
    pub fn with_images(fill: impl FnOnce(&Registry) -> Result<String>) -> Result<Machine> {
        let host = Host::new()?;
        let registry = Registry::start_in(&host, Access::Open)?;
        host.write_registries(&fill(&registry)?)?;
        let before = Sweep::before(&host)?;
        Ok(Machine {
            registry,
            before,
            host,
        })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// `berth` with arguments, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.program("berth");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `berth` to its end, which must come within [`LIMIT`].
    ///
    /// # Errors
    ///
    /// It cannot be run, or takes too long.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run berth")?;
        wait_with_output(child).with_context(|| format!("berth {}", arguments.join(" ")))
    }

    /// Runs `berth`, which must succeed; what it wrote to standard output.
    ///
    /// # Errors
    ///
    /// It fails; the message holds all it wrote.
    pub fn berth(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "berth {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Runs `berth`, which must fail with an exit code; what it wrote to standard error.
    ///
    /// # Errors
    ///
    /// It succeeds, or fails otherwise.
    pub fn berth_fails(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "berth {}: {} where exit code {code} was expected\n{stderr}",
            arguments.join(" "),
            output.status
        );
        Ok(stderr)
    }

    /// Starts `berth` and leaves it running, its output in a file.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let log = self.host.directory().join("started.log");
        let file = std::fs::File::create(&log)?;
        let child = self
            .command(arguments)
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            .spawn()
            .context("run berth")?;
        Ok(Running { child, log })
    }

    /// Starts `berth` on a terminal.
    ///
    /// # Errors
    ///
    /// There is no terminal.
    pub fn terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        let program = crate::host::program("berth");
        let mut words = self.host.command_line(&program.to_string_lossy());
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        Terminal::run(&words, &self.host.command("berth"))
    }

    /// Writes a file into the directory where programs start; its path.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.host.work_dir().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Writes a program there; its path.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_program(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.host.work_dir().join(name);
        write_program(&path, text)?;
        Ok(path)
    }

    /// That nothing is left behind.
    ///
    /// # Errors
    ///
    /// Something is; the message lists it.
    pub fn assert_clean(&self) -> Result<()> {
        self.before.assert_clean(&self.host)
    }
}

/// A program that was left running.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It has been waited for.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Waits until it wrote a text.
    ///
    /// # Errors
    ///
    /// It ended or the time was over; the message holds all it wrote.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + stretched(limit);
        loop {
            let ended = self.child.try_wait()?;
            if self.text().contains(text) {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > deadline {
                bail!("{text:?} was not written, but:\n{}", self.text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; the exit code, 128 and the signal for one that a signal ended.
    ///
    /// # Errors
    ///
    /// The time was over.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + stretched(limit);
        loop {
            if let Some(status) = self.child.try_wait()? {
                let by_signal = status.signal().map(|signal| 128 + signal);
                return Ok(status.code().or(by_signal).unwrap_or(-1));
            }
            if Instant::now() > deadline {
                bail!("it did not end, and wrote:\n{}", self.text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended in every test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_with_output(child: Child) -> Result<Output> {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(stretched(LIMIT)) {
        Ok(output) => Ok(output?),
        Err(_) => {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            bail!("it did not end within {:?}", stretched(LIMIT));
        }
    }
}
