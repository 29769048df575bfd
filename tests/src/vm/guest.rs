//! QEMU: its command line, its limits, and what it told.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::system::System;

/// From QEMU's start to the suite's. Under emulation and on a busy machine a boot
/// takes half a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a machine may take that does nothing but say that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(15);
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
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    /// The system to start.
    pub system: &'a System,
    /// The disk with the suite.
    pub payload: &'a Path,
    /// Who executes.
    pub accelerator: Accelerator,
    /// For the suite alone.
    pub limit: Duration,
    /// For the console and whatever else is of this run.
    pub folder: &'a Path,
}

/// Runs the suite, whose words go to standard output; its exit code.
///
/// # Errors
///
/// The machine did not start, or the suite took too long or did not tell how it
/// ended. The message holds the console's last lines.
pub fn run(guest: &Guest<'_>) -> Result<u8> {
    let console = guest.folder.join("console.log");
    let told = guest.folder.join("told");
    let words = guest.folder.join("words");
    for file in [&told, &words] {
        File::create(file)?;
    }
    let mut words = File::open(words)?;
    let mut qemu = Qemu(command(guest, &console).spawn().context("start QEMU")?);
    let outcome = qemu
        .wait_until(BOOT_LIMIT, || tells(&told, "started"))
        .context("the guest's suite did not start")
        .and_then(|()| {
            let pass_on = || io::copy(&mut words, &mut io::stdout()).is_err();
            qemu.wait_until(guest.limit, pass_on)
                .context("the guest's suite did not end")
        })
        .and_then(|()| exit_code(&told));
    // What came after the last look. Nobody may be listening any more.
    let _ = io::copy(&mut words, &mut io::stdout());
    outcome.with_context(|| format!("the console's last lines:\n{}", last_lines(&console)))
}

/// QEMU as a process; ended where it has not ended by itself.
struct Qemu(Child);

impl Qemu {
    /// Waits for QEMU's end, or until something else holds.
    fn wait_until(&mut self, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !holds() {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "QEMU failed: {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no end within {limit:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has ended in every run that went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(guest: &Guest<'_>, console: &Path) -> Command {
    let mut command = machine(guest.accelerator, guest.system, console);
    let disk = |file: &Path, option: &str| {
        format!("file={},if=virtio,format=raw,{option}", file.display())
    };
    command
        // Where the disk's snapshot goes, which has no name.
        .env("TMPDIR", guest.folder)
        .args([
            "-append",
            "console=ttyS0 panic=-1 mitigations=off loglevel=4 systemd.show_status=0",
        ])
        .args([
            "-drive",
            &disk(&guest.system.disk(), "snapshot=on,cache=unsafe"),
        ])
        .args(["-drive", &disk(guest.payload, "readonly=on")])
        .args(["-device", "virtio-serial-pci"])
        .stdin(Stdio::null());
    for (number, name) in [(1, "words"), (2, "told")] {
        // Files, for a terminal or a pipe that has no reader would stop the guest.
        let file = guest.folder.join(name);
        command
            .args([
                "-chardev",
                &format!("file,id={name},path={}", file.display()),
            ])
            .args([
                "-device",
                &format!("virtserialport,nr={number},chardev={name}"),
            ]);
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
    // A failure is an answer too.
    let ended = Qemu(child).wait_until(PROBE_LIMIT, || false);
    Ok(ended.is_ok() && tells(&console, "berth-vm: alive"))
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
