//! A machine for a caller of runtimes.
//!
//! podman, docker and containerd keep sockets, locks and records below `/run` and
//! `/dev/shm` and make control groups at the top of each hierarchy. Here they have
//! all of these to themselves: two tmpfs in the mount namespace, and a cgroup
//! namespace whose root is a group that is named after the machine.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::host::{Host, program};
use berth_tests::image::{self, busybox, layer, layout};
use berth_tests::patience::stretched;
use berth_tests::sweep;
use berth_tests::terminal::Terminal;

/// How long something may take that happens by itself.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The image's name in every caller's store.
pub const IMAGE: &str = "localhost/busybox:1";

/// Groups that callers make above those of containers, and never remove.
const CALLERS_OWN: &[&str] = &["libpod_parent", "conmon", "docker", "default", "berth"];

/// Makes the machine's own `/run`, `/dev/shm` and control groups, says so, and
/// sleeps until standard input ends. On a machine of cgroup v2 alone the callers
/// work in its groups as they are: a group with processes in it can have no
/// controllers for its children.
const KEEPER: &str = r#"set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  umount /sys/fs/cgroup/unified 2>/dev/null || true
  for group in /sys/fs/cgroup/*/; do
    [ -e "$group/cgroup.procs" ] || continue
    mkdir "$group/$1"
    for file in cpuset.cpus cpuset.mems; do
      [ ! -e "$group/$file" ] || cat "$group/$file" >"$group/$1/$file"
    done
    echo $$ >"$group/$1/cgroup.procs"
  done
fi
exec unshare --cgroup sh -ec '
  awk "\$3 == \"cgroup\" {print \$2, \$4}" /proc/self/mounts | while read -r point options; do
    chosen=none
    for option in $(echo "$options" | tr , " "); do
      case $option in
        name=*) chosen=none,$option ;;
        *) ! grep -q "^$option	" /proc/cgroups || chosen=${chosen#none},$option ;;
      esac
    done
    umount "$point"
    mount -t cgroup -o "${chosen#,}" cgroup "$point"
  done
  echo ready
  read -r _ || true'
"#;

/// Enters the machine's groups before it becomes the program.
const ENTER: &str = r#"for list in /sys/fs/cgroup/*/cgroup.procs; do
  [ ! -e "$list" ] || echo $$ >"$list"
done
exec "$@""#;

/// The machine, and the daemons that a test started on it.
pub struct World {
    keeper: Child,
    daemons: RefCell<Vec<Child>>,
    host: Host,
}

/// Runs a test on a machine, then asserts that no process and no container is left.
///
/// # Panics
///
/// The test failed, or left something.
pub fn check(test: impl FnOnce(&World) -> Result<()>) {
    let world = World::new().unwrap();
    let outcome = test(&world);
    world.end_daemons();
    let left = match outcome {
        Ok(()) => world.remains().unwrap(),
        // What a failed test leaves says nothing more.
        Err(_) => Vec::new(),
    };
    world.close();
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

impl World {
    /// Makes one. Needs root.
    ///
    /// # Errors
    ///
    /// The caller is not root.
    pub fn new() -> Result<World> {
        let host = Host::new()?;
        let mut keeper = host
            .command("sh")
            .args(["-c", KEEPER, "keeper", host.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = keeper.stdout.take().context("the keeper has an output")?;
        BufReader::new(output).read_line(&mut line)?;
        let world = World {
            keeper,
            daemons: RefCell::default(),
            host,
        };
        ensure!(line == "ready\n", "the machine's groups could not be made");
        Ok(world)
    }

    /// Ends whatever still runs here, for callers that leave containers.
    pub fn close(self) {
        self.end_daemons();
        sweep::end_remains(&self.host);
    }

    /// The machine's namespaces and directories.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A folder of this machine's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.host.work_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Writes a file below the folder where programs start.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.host.work_dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A program on the machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.keeper.id()))
            .args(["--net", "--mount", "--cgroup"])
            .arg(format!("--wdns={}", self.host.work_dir().display()))
            .args(["--", "sh", "-c", ENTER, "enter"])
            .arg(program)
            .env("TMPDIR", self.folder("tmp"))
            .stdin(Stdio::null());
        self.host.set_environment(&mut command);
        command
    }

    /// A program on a terminal.
    ///
    /// # Errors
    ///
    /// There is no pseudo-terminal.
    pub fn terminal(&self, command: &Command) -> Result<Terminal> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Terminal::run(&words, command)
    }

    /// Starts a daemon, whose words go to a file `NAME.log`, and waits for its socket.
    ///
    /// # Errors
    ///
    /// It ended, or there is no socket after a while; the message holds its words.
    pub fn start_daemon(&self, name: &str, command: &mut Command, socket: &Path) -> Result<()> {
        let log = self.host.work_dir().join(format!("{name}.log"));
        let file = File::create(&log)?;
        let daemon = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.daemons.borrow_mut().push(daemon);
        let begin = Instant::now();
        loop {
            if std::os::unix::net::UnixStream::connect(socket).is_ok() {
                return Ok(());
            }
            let ended = self.daemons.borrow_mut().last_mut().unwrap().try_wait()?;
            if ended.is_some() || begin.elapsed() > stretched(LIMIT) {
                bail!("{name} does not listen: {}", fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the daemons to end and waits for that.
    fn end_daemons(&self) {
        for mut daemon in self.daemons.borrow_mut().drain(..).rev() {
            let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
            // It may have ended by itself, and then the test has failed.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let begin = Instant::now();
            while daemon.try_wait().is_ok_and(|end| end.is_none()) {
                if begin.elapsed() > stretched(LIMIT) {
                    let _ = daemon.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// `busybox` as `docker save` writes it, named [`IMAGE`].
    ///
    /// # Errors
    ///
    /// `busybox-static` is not installed.
    pub fn docker_archive(&self) -> Result<PathBuf> {
        let file = self.host.work_dir().join("busybox.tar");
        let plan = busybox::plan()?;
        let plain = layer::archive(&plan.layers[0].entries)?;
        layout::write_docker_archive(&image::build(&plan)?, &[plain], &file, IMAGE)?;
        Ok(file)
    }

    /// The same as an OCI layout in one archive.
    ///
    /// # Errors
    ///
    /// `busybox-static` is not installed.
    pub fn oci_archive(&self) -> Result<PathBuf> {
        let file = self.host.work_dir().join("busybox.oci.tar");
        layout::write_oci_archive(&image::build(&busybox::plan()?)?, &file, IMAGE)?;
        Ok(file)
    }

    /// What should not be there any more: programs, and records and groups of containers.
    fn remains(&self) -> Result<Vec<String>> {
        let begin = Instant::now();
        loop {
            let mut left: Vec<String> = sweep::processes(&self.host)?
                .into_iter()
                .filter(|line| !line.starts_with(&format!("{} ", self.keeper.id())))
                .map(|line| format!("process {line}"))
                .collect();
            // `/run` is another one in there.
            let records = format!("/proc/{}/root/run/berth/oci", self.keeper.id());
            let entries = fs::read_dir(records).into_iter().flatten().flatten();
            left.extend(
                entries
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .filter(|name| !name.starts_with('.'))
                    .map(|name| format!("record {name}")),
            );
            let groups = sweep::cgroups(self.host.name());
            let of_container = |path: &&PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let of_pod = path
                    .parent()
                    .is_some_and(|above| above.ends_with("libpod_parent"))
                    && !name.starts_with("libpod-");
                // podman makes and removes a pod's group, but not in the
                // hierarchy of systemd: below runc too it stays there.
                name != self.host.name() && !of_pod && !CALLERS_OWN.contains(&&*name)
            };
            left.extend(
                groups
                    .iter()
                    .filter(of_container)
                    .map(|path| format!("group {}", path.display())),
            );
            if left.is_empty() || begin.elapsed() > Duration::from_secs(5) {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end_daemons();
        drop(self.keeper.stdin.take());
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        // Groups can be removed once their processes are gone, children first.
        let mut groups = sweep::cgroups(self.host.name());
        groups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for group in groups {
            let _ = fs::remove_dir(group);
        }
    }
}

/// The program under test.
pub fn berth() -> PathBuf {
    program("berth-oci")
}

/// Asks until it is so.
///
/// # Errors
///
/// It did not become so; the last thing that was missing.
pub fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + stretched(LIMIT);
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => {}
            outcome => return outcome,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
