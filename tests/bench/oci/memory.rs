//! Memory: what a runtime takes itself, and how little it leaves a container with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bundle::{Bundle, MARK};
use super::runtime::{Runtime, quietly};
use crate::measure::rounds;
use crate::report::Section;

/// Measurements of each peak; the middle one counts.
const PEAKS: usize = 9;

/// Runs that must all succeed for a limit to be one that works.
const TRIES: usize = 5;

/// Limits that are tried, in KiB, each after the one before it worked.
const LADDER: [u64; 18] = [
    32768, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128,
    96, 64,
];

/// Peaks of `create` and of `run`.
pub fn peaks(section: &mut Section, scratch: &Path, runtimes: &[Runtime]) -> Result<()> {
    let bench = Bundle::make_with(scratch, "peak-bundle", |config| {
        // Named, so that nobody puts it below the group that is measured.
        config["linux"]["cgroupsPath"] = json!(format!("/{MARK}-inside"));
    })?;
    let watcher = bench.compile("peak", include_str!("peak.c"))?;
    for verb in ["create", "run"] {
        let mut found: Vec<Peaks> = runtimes.iter().map(Peaks::of).collect();
        for _ in 0..rounds(PEAKS) {
            for (runtime, peaks) in runtimes.iter().zip(&mut found) {
                let group = Group::make()?;
                let made = bench.making(runtime, verb, "bench-peak");
                peaks.resident.push(watch(&watcher, &group, &made)?);
                peaks.charged.push(group.peak()?);
                if verb == "create" {
                    bench.delete(runtime, "bench-peak")?;
                }
            }
        }
        let rows = found.iter_mut().map(Peaks::row).collect();
        section.rows(
            &format!("Peak memory of `{verb}`"),
            &["largest process, resident", "charged for all processes"],
            rows,
        );
    }
    section.say(
        "Resident is what `wait4` tells, and includes the program's own file. Charged is the peak \
         of a cgroup around the runtime: what it and its children took anew, the kernel's memory too.",
    );
    Ok(())
}

struct Peaks {
    name: String,
    resident: Vec<u64>,
    charged: Vec<u64>,
}

impl Peaks {
    fn of(runtime: &Runtime) -> Peaks {
        Peaks {
            name: runtime.name.clone(),
            resident: Vec::new(),
            charged: Vec::new(),
        }
    }

    fn row(&mut self) -> Vec<String> {
        let middle = |figures: &mut Vec<u64>| {
            figures.sort_unstable();
            format!("{} KiB", figures[figures.len() / 2])
        };
        let (resident, charged) = (middle(&mut self.resident), middle(&mut self.charged));
        vec![self.name.clone(), resident, charged]
    }
}

fn watch(watcher: &Path, group: &Group, made: &Command) -> Result<u64> {
    let output = Command::new(watcher)
        .arg(group.entrance())
        .arg(made.get_program())
        .args(made.get_args())
        .output()?;
    ensure!(output.status.success(), "{made:?}: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("{text:?}"))
}

/// A cgroup that counts memory.
struct Group {
    folder: PathBuf,
    is_v2: bool,
}

impl Group {
    fn make() -> Result<Group> {
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let tree = if is_v2 {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/memory"
        };
        let folder = Path::new(tree).join(format!("{MARK}-around"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Group { folder, is_v2 })
    }

    fn entrance(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// In KiB.
    fn peak(&self) -> Result<u64> {
        let file = self.folder.join(if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        });
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().parse::<u64>()? / 1024)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever is still in it is told of by the next one's failure.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The least memory that a container may have for `run` of `true` to succeed.
pub fn smallest_limits(section: &mut Section, scratch: &Path, runtimes: &[Runtime]) -> Result<()> {
    let bench = Bundle::make_with(scratch, "small-bundle", |config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{MARK}-small"));
    })?;
    let mut rows = Vec::new();
    for runtime in runtimes {
        let mut least = None;
        for kibibytes in LADDER {
            bench.change(|config| {
                config["linux"]["resources"]["memory"] = json!({"limit": kibibytes * 1024});
            })?;
            if !(0..TRIES).all(|_| works(&bench, runtime)) {
                break;
            }
            least = Some(kibibytes);
        }
        let least = least.map_or_else(|| "none".to_owned(), |limit| format!("{limit} KiB"));
        rows.push(vec![runtime.name.clone(), least]);
    }
    let title =
        format!("The smallest memory limit on which {TRIES} of {TRIES} `run`s of `true` succeed");
    section.rows(&title, &["limit"], rows);
    Ok(())
}

fn works(bench: &Bundle, runtime: &Runtime) -> bool {
    let id = "bench-small";
    // Where a process that must not be killed finds no memory it tries for ever.
    let run = bench.making(runtime, "run", id);
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=1", "10"]);
    bounded.arg(run.get_program()).args(run.get_args());
    let worked = quietly(&mut bounded).is_ok();
    if !worked {
        // It may have been taken away already.
        let _ = bench.delete(runtime, id);
    }
    worked
}
