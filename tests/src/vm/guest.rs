//! QEMU: its command line, its limits, and what it told. One guest, or two on a wire.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::payload::Afterwards;
use super::system::System;
use super::wire::{self, End};

/// From QEMU's start to the suite's. Under emulation and on a busy machine a boot
/// takes half a minute; of two guests, on a very busy one, four minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long a machine may take that does nothing but say that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(15);
/// How long a guest may go on when another one has ended.
const FAREWELL: Duration = Duration::from_secs(180);
/// Between two looks at what guests do.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of the console that an error shows.
const LAST_LINES: usize = 40;

/// Who executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator: ten to thirty times slower, and everywhere.
    Tcg,
}

impl Accelerator {
    /// Its name on QEMU's command line.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }

    /// How much longer than on a real machine a suite's case may take.
    pub fn slowness(self) -> u32 {
        match self {
            Accelerator::Kvm => 2,
            Accelerator::Tcg => 10,
        }
    }
}

/// Chooses by a trial: `/dev/kvm` may be there and its guests fail all the same,
/// where the machine is itself virtual. `BERTH_VM_ACCEL` decides without a trial.
///
/// # Errors
///
/// The variable holds another word than `kvm` or `tcg`.
pub fn choose_accelerator(system: &System, folder: &Path) -> Result<Accelerator> {
    match std::env::var("BERTH_VM_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok(other) => bail!("BERTH_VM_ACCEL is {other:?}, where kvm or tcg is expected"),
        Err(_) => {}
    }
    let works = Path::new("/dev/kvm").exists() && lives(system, folder)?;
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

/// What is to be started, and for how long at most.
#[derive(Debug)]
pub struct Run<'a> {
    /// The system to start.
    pub system: &'a System,
    /// The disk with the suite.
    pub payload: &'a Path,
    /// Who executes.
    pub accelerator: Accelerator,
    /// For the suite alone.
    pub limit: Duration,
    /// For the consoles and whatever else is of this run.
    pub folder: &'a Path,
    /// Whether guests stay when their suites have ended.
    pub afterwards: Afterwards,
}

/// Runs the suite in one guest, whose words go to standard output; its exit code.
///
/// # Errors
///
/// The machine did not start, or the suite took too long or did not tell how it
/// ended. The message holds the console's last lines.
pub fn run_one(run: &Run<'_>) -> Result<u8> {
    follow(run, vec![Guest::start(run, None)?])
}

/// Runs the suite in two guests on a wire, side by side; the worse of their exit codes.
///
/// # Errors
///
/// As [`run_one`], for each.
pub fn run_two(run: &Run<'_>) -> Result<u8> {
    let guests = wire::lay()?.into_iter();
    let guests = guests.map(|end| Guest::start(run, Some(end)));
    follow(run, guests.collect::<Result<_>>()?)
}

/// Sees guests through, from their start to the end of all.
fn follow(run: &Run<'_>, mut guests: Vec<Guest>) -> Result<u8> {
    until_all(&mut guests, BOOT_LIMIT, Guest::has_started)
        .context("the guest's suite did not start")
        .and_then(|()| {
            until_all(&mut guests, run.limit, Guest::has_ended)
                .context("the guest's suite did not end")
        })
        .and_then(|()| {
            let codes = guests.iter().map(Guest::exit_code);
            Ok(codes
                .collect::<Result<Vec<u8>>>()?
                .into_iter()
                .max()
                .unwrap_or(0))
        })
        .with_context(|| {
            let lines = guests.iter().map(Guest::last_lines);
            lines.collect::<Vec<String>>().join("\n")
        })
}

/// Waits until something holds of all guests. They end together: one that has lost the
/// others has [`FAREWELL`] left.
fn until_all(
    guests: &mut [Guest],
    limit: Duration,
    holds: fn(&mut Guest) -> Result<bool>,
) -> Result<()> {
    let mut first_end = None;
    let deadline = Instant::now() + limit;
    loop {
        let mut all = true;
        for guest in &mut *guests {
            all &= holds(guest)?;
            if guest.qemu.has_ended()? {
                first_end.get_or_insert_with(Instant::now);
            }
        }
        if all {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no end within {limit:?}");
        ensure!(
            first_end.is_none_or(|ended| ended.elapsed() < FAREWELL),
            "one guest has ended, and another has not within {FAREWELL:?}"
        );
        std::thread::sleep(LOOK);
    }
}

/// A guest that was started.
struct Guest {
    qemu: Qemu,
    /// How its words begin, where there are several guests.
    prefix: String,
    /// What its suite writes, as far as it was not passed on.
    words: BufReader<File>,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    told: PathBuf,
    console: PathBuf,
}

impl Guest {
    fn start(run: &Run<'_>, end: Option<End>) -> Result<Guest> {
        let (folder, prefix) = match &end {
            Some(end) => (run.folder.join(end.name()), format!("{}: ", end.name())),
            None => (run.folder.to_owned(), String::new()),
        };
        fs::create_dir_all(&folder)?;
        let (console, told) = (folder.join("console.log"), folder.join("told"));
        let words = folder.join("words");
        for file in [&told, &words] {
            File::create(file)?;
        }
        let qemu = command(run, &folder, end).spawn().context("start QEMU")?;
        Ok(Guest {
            qemu: Qemu(qemu),
            prefix,
            words: BufReader::new(File::open(words)?),
            line: Vec::new(),
            told,
            console,
        })
    }

    fn has_started(&mut self) -> Result<bool> {
        Ok(tells(&self.told, "started") || self.qemu.has_ended()?)
    }

    /// Whether the machine has ended. What the suite wrote is passed on.
    fn has_ended(&mut self) -> Result<bool> {
        let ended = self.qemu.has_ended()?;
        // Nobody may be listening any more.
        let _ = self.pass_on(ended);
        Ok(ended)
    }

    /// Passes whole lines on, and at the end what is there. Lines, for several guests
    /// write at once.
    fn pass_on(&mut self, is_over: bool) -> io::Result<()> {
        let mut output = io::stdout().lock();
        loop {
            let count = self.words.read_until(b'\n', &mut self.line)?;
            let is_whole = self.line.ends_with(b"\n") || (is_over && !self.line.is_empty());
            if is_whole {
                output.write_all(self.prefix.as_bytes())?;
                output.write_all(&self.line)?;
                self.line.clear();
            }
            if count == 0 {
                return output.flush();
            }
        }
    }

    fn exit_code(&self) -> Result<u8> {
        exit_code(&self.told)
    }

    fn last_lines(&self) -> String {
        format!(
            "{}the console's last lines:\n{}",
            self.prefix,
            last_lines(&self.console)
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // What a suite wrote that did not come to its end.
        let _ = self.pass_on(true);
    }
}

/// QEMU as a process; ended where it has not ended by itself.
struct Qemu(Child);

impl Qemu {
    /// Whether it has ended, which must be by itself.
    fn has_ended(&mut self) -> Result<bool> {
        match self.0.try_wait()? {
            Some(status) => {
                ensure!(status.success(), "QEMU failed: {status}");
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has ended in every run that went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(run: &Run<'_>, folder: &Path, end: Option<End>) -> Command {
    let mut command = machine(run.accelerator, run.system, &folder.join("console.log"));
    let disk = |file: &Path, option: &str| {
        format!("file={},if=virtio,format=raw,{option}", file.display())
    };
    // The check of the timer waits for ticks that come late where the host has other
    // things to do, and then finds the timer broken.
    let mut kernel_words = "console=ttyS0 panic=-1 mitigations=off no_timer_check loglevel=4 \
                            systemd.show_status=0"
        .to_owned();
    if let Some(end) = &end {
        kernel_words = format!("{kernel_words} {}", end.kernel_words());
    }
    command
        // Where the disk's snapshot goes, which has no name.
        .env("TMPDIR", folder)
        .current_dir(folder)
        .args(["-append", &kernel_words])
        .args([
            "-drive",
            &disk(&run.system.disk(), "snapshot=on,cache=unsafe"),
        ])
        .args(["-drive", &disk(run.payload, "readonly=on")])
        .args(["-device", "virtio-serial-pci"])
        .stdin(Stdio::null());
    // Files, for a terminal or a pipe that has no reader would stop the guest. Paths are
    // of this folder, for a socket's must be short.
    let mut ports = vec![
        ("words", "file,id=words,path=words"),
        ("told", "file,id=told,path=told"),
    ];
    if run.afterwards == Afterwards::Stay {
        ports.push(("door", "socket,id=door,path=door,server=on,wait=off"));
    }
    for (number, (name, backend)) in (1..).zip(ports) {
        command.args(["-chardev", backend]).args([
            "-device",
            &format!("virtserialport,nr={number},chardev={name}"),
        ]);
    }
    // Behind the ports: the guest counts all of virtio's devices, and `vport0p1` is a port
    // of the first one.
    if let Some(end) = end {
        command.args(end.device()).stdin(end.socket);
    }
    command
}

/// What a trial and a real run have in common.
fn machine(accelerator: Accelerator, system: &System, console: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-machine", "q35", "-smp", "2", "-m", "2048", "-nic", "none"])
        .args([
            "-accel",
            match accelerator {
                Accelerator::Kvm => "kvm",
                Accelerator::Tcg => "tcg,thread=multi",
            },
        ])
        .args([
            "-cpu",
            match accelerator {
                Accelerator::Kvm => "host",
                Accelerator::Tcg => "max",
            },
        ])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(system.kernel())
        .arg("-initrd")
        .arg(system.initramfs());
    command
}

/// Whether a guest on the processor itself comes as far as its first program.
fn lives(system: &System, folder: &Path) -> Result<bool> {
    let console = folder.join("probe.log");
    let child = machine(Accelerator::Kvm, system, &console)
        .args(["-append", "console=ttyS0 panic=-1 quiet berth.probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start QEMU")?;
    let mut qemu = Qemu(child);
    let deadline = Instant::now() + PROBE_LIMIT;
    while Instant::now() < deadline {
        // A failure is an answer too.
        match qemu.has_ended() {
            Ok(false) => std::thread::sleep(LOOK),
            Ok(true) => return Ok(tells(&console, "berth-vm: alive")),
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

fn tells(file: &Path, word: &str) -> bool {
    fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(word))
}

fn exit_code(told: &PathBuf) -> Result<u8> {
    let text = fs::read_to_string(told)?;
    let code = text.lines().find_map(|line| line.strip_prefix("exit "));
    code.and_then(|code| code.trim().parse().ok())
        .with_context(|| format!("the machine ended, and the suite had told only {text:?}"))
}

fn last_lines(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{exit_code, last_lines};

    #[test]
    fn an_exit_code_must_have_been_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = folder.path().join("told");
        std::fs::write(&told, "started\nexit 101\n").expect("written");
        assert_eq!(exit_code(&told).expect("told"), 101);
        std::fs::write(&told, "started\n").expect("written");
        assert!(exit_code(&told).is_err());
    }

    #[test]
    fn the_consoles_end_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = folder.path().join("console");
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        std::fs::write(&console, lines.join("\r\n")).expect("written");
        let text = last_lines(&console);
        assert!(
            text.starts_with("line 60\n") && text.ends_with("line 99"),
            "{text}"
        );
    }
}
