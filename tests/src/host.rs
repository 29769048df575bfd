//! A machine of its own for one test: network and mount namespaces, directories.
//!
//! A process that sleeps holds the namespaces; programs join them through
//! `nsenter(1)`. Links, addresses, nftables rules and mounts that a test makes
//! are in those namespaces and go with them. Processes, cgroups and files are
//! not, so [`crate::sweep`] looks for them.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::LinkNameSpaceType;
use tempfile::TempDir;

use crate::http::{self, Request, Response};
use crate::sweep;

/// The variable that marks all that a host's programs start, for the sweep.
pub const MARK: &str = "BERTH_TEST_HOST";

/// Makes the mounts private, so that none shows outside, says so, and sleeps
/// until standard input ends, that is until the test has gone, however it went.
const SCRIPT: &str = "set -e
mount --make-rprivate /
ip link set lo up
echo ready
read -r _ || true";

/// A throw-away machine. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Host {
    keeper: Child,
    directory: TempDir,
    name: String,
}

impl Host {
    /// Makes one. Needs root.
    ///
    /// # Errors
    ///
    /// The caller is not root, or the kernel refuses namespaces.
    pub fn new() -> Result<Host> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a throw-away host needs root"
        );
        let directory = tempfile::Builder::new().prefix("berth-host-").tempdir()?;
        let name = directory
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| anyhow!("a temporary directory without a name"))?
            .to_owned();
        for folder in ["run", "data", "work"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        let mut keeper = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let mut line = String::new();
        let output = keeper.stdout.take().context("unshare has an output")?;
        BufReader::new(output).read_line(&mut line)?;
        let host = Host {
            keeper,
            directory,
            name,
        };
        ensure!(line == "ready\n", "the host's namespaces could not be made");
        Ok(host)
    }

    /// A name that no other host has; also the leading part of its cgroups' names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A process that is in the host's namespaces.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// Everything of the host that is on disk.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// For `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// For `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// For manifests and whatever else a test writes; also where programs start.
    pub fn work_dir(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The group above all that berth starts here.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.name)
    }

    /// A program in the host's namespaces. The process that is spawned is the
    /// program itself, for `nsenter` replaces itself by it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid()))
            .args(["--net", "--mount"])
            .arg(format!("--wdns={}", self.work_dir().display()))
            .arg("--")
            .arg(program);
        self.set_environment(&mut command);
        command
    }

    /// A program of the workspace, for example `berth` or `berth-oci`, in the host.
    pub fn program(&self, name: &str) -> Command {
        self.command(program(name))
    }

    /// The arguments that put a program into the host, for those who spawn by
    /// other means than [`Host::command`], as a terminal does.
    pub fn command_line(&self, program: &str) -> Vec<String> {
        let command = self.command(program);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    /// Sets the variables that point berth at this host's directories.
    pub fn set_environment(&self, command: &mut Command) {
        command
            .env(MARK, &self.name)
            .env("BERTH_RUN_DIR", self.run_dir())
            .env("BERTH_DATA_DIR", self.data_dir())
            .env("BERTH_CGROUP_PARENT", self.cgroup_parent())
            .env("BERTH_REGISTRIES_CONFIG", self.registries_file());
    }

    /// The registries.toml that the host's programs read; absent until written.
    pub fn registries_file(&self) -> PathBuf {
        self.directory.path().join("registries.toml")
    }

    /// Writes the host's registries.toml.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_registries(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.registries_file(), text)?)
    }

    /// A connection that is made inside the host.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        connect_in(self.pid(), address)
    }

    /// `GET http://ADDRESS/TARGET` from inside the host.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub fn get(&self, address: SocketAddr, target: &str) -> Result<Response> {
        let request = Request {
            method: "GET",
            target,
            ..Request::default()
        };
        http::exchange(self.connect(address)?, &request)
    }

    /// Asks again until the host answers 200, or gives up.
    ///
    /// # Errors
    ///
    /// The last failure, when the time was over.
    pub fn get_within(
        &self,
        limit: Duration,
        address: SocketAddr,
        target: &str,
    ) -> Result<Response> {
        let deadline = std::time::Instant::now() + crate::patience::stretched(limit);
        loop {
            let answer = self.get(address, target).and_then(|response| {
                ensure!(
                    response.status == 200,
                    "answered {}: {}",
                    response.status,
                    response.text()
                );
                Ok(response)
            });
            if answer.is_ok() || std::time::Instant::now() > deadline {
                return answer.with_context(|| format!("GET http://{address}{target}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A TCP port of the host's loopback that nobody uses.
    ///
    /// # Errors
    ///
    /// The host has no free port.
    pub fn free_port(&self) -> Result<u16> {
        in_network_of(self.pid(), || {
            Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port())
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that ends by an error does not panic, and leaves as much.
        let is_clean = sweep::processes(self).is_ok_and(|left| left.is_empty())
            && sweep::cgroups(self.name()).is_empty();
        if !is_clean {
            sweep::end_remains(self);
        }
        // The shell ends with its standard input; a kill is for the case that
        // it did not get that far.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The path of a program of this workspace, built by the same cargo call.
///
/// Tests are in `target/PROFILE/deps`, programs in `target/PROFILE`. The
/// variable `BERTH_PROGRAMS` names another directory, for an installed release.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("BERTH_PROGRAMS") {
        return Path::new(&directory).join(name);
    }
    let test = std::env::current_exe().unwrap_or_default();
    let mut folders = test.ancestors().skip(1);
    folders
        .by_ref()
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}

/// Writes a program, a script as a rule.
///
/// # Errors
///
/// Those of the file system.
pub fn write_program(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Connects inside the network namespace of a process.
///
/// # Errors
///
/// Nobody listens there, or the process has gone.
pub fn connect_in(pid: u32, address: SocketAddr) -> Result<TcpStream> {
    in_network_of(pid, move || {
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connect to {address}"))
    })
}

/// Runs a function on a thread that has joined the network namespace of a
/// process. A thread of its own, because the namespace is a thread's property
/// and this one must keep its own.
///
/// # Errors
///
/// The process has gone, or what the function returned.
pub fn in_network_of<T: Send>(pid: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).context("the host has gone")?;
    let joined = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?;
                work()
            })
            .join()
    });
    joined.map_err(|_| anyhow!("the thread in the host's namespace panicked"))?
}
