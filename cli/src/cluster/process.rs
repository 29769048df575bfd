//! The node's process: started in the background, found by its lock, ended in order.
//!
//! Where systemd runs and nothing was moved from its default place, it is the unit
//! `berth-node.service`; elsewhere a process of its own session whose words go to
//! `DATA/node/berth.log`.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{DEFAULT_CONFIG, Places};
use crate::error::{Context, Error, Result};
use crate::settings::Settings;
use crate::workers::claim::{Claim, LiveWorker};

/// How long a process that was started may take to become the node's.
const PATIENCE: Duration = Duration::from_secs(30);
/// The unit's name.
pub const UNIT: &str = "berth-node.service";
/// How much of the log an error tells.
const LOG_TAIL_BYTES: u64 = 4096;

/// The lock of the node's process, for the one who becomes it.
///
/// # Errors
///
/// Another process is it.
pub fn claim(places: &Places) -> Result<Claim> {
    if let Some(directory) = places.lock.parent() {
        std::fs::create_dir_all(directory).context("make the run directory")?;
    }
    Claim::take(&places.lock).context("become this node's process")
}

/// The node's process, if it lives.
pub fn live(places: &Places) -> Option<LiveWorker> {
    LiveWorker::find(&places.lock)
}

/// How the node's process was started.
#[derive(Debug)]
pub enum Started {
    /// By systemd.
    Unit,
    /// By us.
    Child(std::process::Child),
}

impl Started {
    /// Waits until it is the node's process; who asks then finds it.
    ///
    /// # Errors
    ///
    /// It has ended, or is not that far within half a minute.
    pub fn until_live(mut self, places: &Places) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while live(places).is_none() {
            if let Some(reason) = self.failure(places)? {
                return Err(Error::new(format!("start the node's process: {reason}")));
            }
            if Instant::now() > deadline {
                return Err(Error::new(format!(
                    "start the node's process: after {} seconds it does not hold {}; it goes on trying",
                    PATIENCE.as_secs(),
                    places.lock.display()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Why it has ended already, if it has.
    ///
    /// # Errors
    ///
    /// The process cannot be waited for.
    pub fn failure(&mut self, places: &Places) -> Result<Option<String>> {
        match self {
            Started::Unit => {
                // systemd starts it again and again, so it is hardly ever seen as failed.
                let again = systemctl(&["show", "--property=NRestarts", "--value", UNIT]);
                let ended = again.is_ok_and(|count| count.trim() != "0")
                    || systemctl(&["is-failed", UNIT]).is_ok();
                Ok(ended.then(|| format!("it ended\n{}", journal())))
            }
            Started::Child(child) => {
                let ended = child.try_wait().context("wait for the node's process")?;
                Ok(ended.map(|status| {
                    let words = log_end(&places.log());
                    format!("it ended with {status}\n{words}")
                }))
            }
        }
    }
}

/// Starts the node's process in the background.
///
/// # Errors
///
/// It cannot be started.
pub fn start(settings: &Settings, places: &Places) -> Result<Started> {
    if is_systemd_in_charge(settings, places) {
        // Counts its ends from here on. One that it does not know has none.
        let _ = systemctl(&["reset-failed", UNIT]);
        systemctl(&["enable", "--now", "--no-block", UNIT])
            .map_err(|words| Error::new(format!("start {UNIT}: {words}")))?;
        return Ok(Started::Unit);
    }
    let log = open_log(&places.log())?;
    let attempt = "start the node's process";
    let mut command = settings.this_program()?;
    command
        .args(["node", "--own-session", "--config"])
        .arg(&places.config)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context(attempt)?)
        .stderr(log);
    Ok(Started::Child(command.spawn().context(attempt)?))
}

/// Ends the node's process in order; one that does not live is fine.
///
/// # Errors
///
/// It does not end.
pub async fn stop(settings: &Settings, places: &Places, patience: Duration) -> Result<()> {
    if is_systemd_in_charge(settings, places) {
        systemctl(&["disable", "--now", UNIT])
            .map_err(|words| Error::new(format!("stop {UNIT}: {words}")))?;
    }
    let Some(process) = live(places) else {
        return Ok(());
    };
    process.signal(Signal::TERM)?;
    if tokio::time::timeout(patience, process.ended())
        .await
        .is_ok()
    {
        return Ok(());
    }
    process.signal(Signal::KILL)?;
    tokio::time::timeout(patience, process.ended())
        .await
        .map_err(|_| {
            let pid = process.pid();
            Error::new(format!(
                "the node's process {pid} does not end; nothing was removed"
            ))
        })
}

/// The end of what the node's process said, and where the rest is.
pub fn last_words(settings: &Settings, places: &Places) -> String {
    if is_systemd_in_charge(settings, places) {
        journal()
    } else {
        log_end(&places.log())
    }
}

fn log_end(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("{}\nall of it: {}", lines.join("\n"), log.display())
}

/// The end of what the unit's process said.
fn journal() -> String {
    let said = output_of(
        "journalctl",
        &["--unit", UNIT, "--lines=8", "--output=cat", "--no-pager"],
    );
    let said = said.unwrap_or_else(|words| words);
    format!("{}\nall of it: journalctl -u {UNIT}", said.trim_end())
}

fn open_log(path: &Path) -> Result<File> {
    let attempt = || format!("open {}", path.display());
    if let Some(directory) = path.parent() {
        berth_scheduler::trust::files::ensure_private_directory(directory).context(attempt())?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .context(attempt())
}

/// A unit knows nothing of other directories than the default ones.
fn is_systemd_in_charge(settings: &Settings, places: &Places) -> bool {
    Path::new("/run/systemd/system").is_dir()
        && places.config == Path::new(DEFAULT_CONFIG)
        && settings.run_dir == Path::new("/run/berth")
        && settings.data_dir == Path::new("/var/lib/berth")
        && systemctl(&["cat", UNIT]).is_ok()
}

fn systemctl(words: &[&str]) -> std::result::Result<String, String> {
    output_of("systemctl", words)
}

/// What a program wrote, or its complaint.
fn output_of(program: &str, words: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
