//! `berth-vm [SUITE [WORDS…]]`: a suite, in a virtual machine with cgroup version 2 and systemd.
//!
//! `./x vm-test` installs what this needs and builds what the suites drive. WORDS go
//! to the suite's program, as after `cargo test … --`. `cluster` is the suite `machines`
//! in two guests on a wire.
//!
//! - `BERTH_VM_ACCEL=kvm|tcg` decides who executes; without it a trial does.
//! - `RUNTIME_UNDER_TEST=berth-oci|runc|crun` asks one runtime only, as it does outside.
//! - `BERTH_CHAPTERS=1,3,4,7-` tells the cluster's story in those chapters only.
//! - `BERTH_VM_STAY=1` leaves the guests up, each with a shell behind a socket named `door`.
//! - `BERTH_VM_LIMIT=SECONDS` is how long the suite may take, 3600 by default.

use std::fs::{self, File, TryLockError};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::vm;
use berth_tests::vm::guest::{self, Run};
use berth_tests::vm::payload::{self, Afterwards, Programs, Suite};
use berth_tests::vm::system;

/// The suite that two guests on a wire run together.
const MACHINES: &str = "machines";

fn main() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_else(|| "oci".to_owned());
    ensure!(
        !name.starts_with('-'),
        "usage: berth-vm [SUITE [WORDS…]], where SUITE is a file of tests/tests or runtime/tests, or 'cluster' for two machines"
    );
    let is_cluster = name == "cluster";
    ensure!(
        rustix::process::geteuid().is_root(),
        "a system is made of packages as root only"
    );
    let limit = time_limit()?;
    let place = vm::folder();
    fs::create_dir_all(&place)?;
    let _alone = lock(&place)?;
    let system = system::prepare(&place)?;
    let folder = place.join("run");
    // What a run left that was ended by a signal.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder)?;
    let accelerator = guest::choose_accelerator(&system, &folder)?;
    let afterwards = match std::env::var_os("BERTH_VM_STAY") {
        Some(_) => Afterwards::Stay,
        None => Afterwards::End,
    };
    let suite = Suite {
        name: if is_cluster {
            MACHINES.to_owned()
        } else {
            name
        },
        programs: if is_cluster {
            Programs::Installed
        } else {
            Programs::Debug
        },
        words: words.collect(),
        slowness: accelerator.slowness(),
        afterwards,
    };
    let payload = payload::pack(&suite, &folder)?;
    eprintln!("starting the virtual machine ({})", accelerator.name());
    let begun = Instant::now();
    let run = Run {
        system: &system,
        payload: &payload,
        accelerator,
        limit,
        folder: &folder,
        afterwards,
    };
    let outcome = if is_cluster {
        guest::run_two(&run)
    } else {
        guest::run_one(&run)
    };
    // The console's log stays, for whoever wants to know more.
    fs::remove_file(&payload)?;
    let code = outcome?;
    eprintln!(
        "the virtual machine ran for {} s",
        begun.elapsed().as_secs()
    );
    Ok(ExitCode::from(code))
}

fn time_limit() -> Result<Duration> {
    let seconds = match std::env::var("BERTH_VM_LIMIT") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("BERTH_VM_LIMIT is {text:?}, where seconds are expected"))?,
        Err(_) => 3600,
    };
    Ok(Duration::from_secs(seconds))
}

/// Two at once would take each other's disks away.
fn lock(place: &std::path::Path) -> Result<File> {
    let file = File::create(place.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another run has {}", place.display()),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
