//! The suite's programs, as a second disk.
//!
//! A suite looks for its programs beside itself and for the workspace's files where
//! they were at compile time. So the disk holds a part of the workspace, and the
//! guest binds it to the same path as here. Links stand for copies until the disk
//! is made, for `target` lies on one filesystem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{pack_ext4, wire, workspace};
use crate::cni_plugins;

/// Programs that suites start, of cargo's own build.
const DEBUG: &[&str] = &[
    "target/debug/berth",
    "target/debug/berth-oci",
    "target/debug/berth-attach",
    "target/debug/berth-fixture",
];
/// What `./x install` takes, and kubectl for whoever has built it.
const INSTALLED: &[&str] = &[
    "x",
    "target/berth/berth",
    "target/berth/berth-oci",
    "target/kubelet/kubectl",
];
/// Folders of the workspace that suites read.
const READ: &[&str] = &["docs", "examples", "systemd", "tests"];

/// What a suite is told by variables, here as outside.
const VARIABLES: &[&str] = &["RUNTIME_UNDER_TEST", "BERTH_CHAPTERS"];

/// Which programs of ours a suite starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// Those that cargo builds for tests; the runtime as it is shipped.
    Debug,
    /// Those that `./x build` makes and the suite installs by `./x install`.
    Installed,
}

/// What is to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// The name of a test target, such as `oci`.
    pub name: String,
    /// Which programs it starts.
    pub programs: Programs,
    /// Words for the test's program, such as a part of cases' names.
    pub words: Vec<String>,
    /// How much longer than on a real machine a case may take.
    pub slowness: u32,
    /// What becomes of the guest when the suite has ended.
    pub afterwards: Afterwards,
}

/// What becomes of a guest when its suite has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It ends too.
    End,
    /// It stays until somebody ends it, with a shell behind its door.
    Stay,
}

/// Compiles the suite and makes the disk in a folder; the disk's path.
///
/// # Errors
///
/// The suite does not compile, or the disk is full.
pub fn pack(suite: &Suite, folder: &Path) -> Result<PathBuf> {
    let program = compile(&suite.name)?;
    let staged = folder.join("payload");
    let tree = staged.join("workspace");
    for name in READ {
        copy_tree(&workspace().join(name), &tree.join(name))?;
    }
    link(&program, &tree)?;
    let programs = match suite.programs {
        Programs::Debug => DEBUG,
        Programs::Installed => INSTALLED,
    };
    for name in programs {
        let built = workspace().join(name);
        if built.exists() {
            link(&built, &tree)?;
        }
    }
    if suite.programs == Programs::Debug {
        take_static_runtime(&tree)?;
    }
    if suite.name == "cri" {
        for plugin in fs::read_dir(cni_plugins::build()?)? {
            link(&plugin?.path(), &tree)?;
        }
    }
    fs::write(staged.join("run"), script(suite, &program))?;
    let image = folder.join("payload.ext4");
    pack_ext4(&staged, &image, size_mib(&staged)? * 5 / 4 + 32)?;
    fs::remove_dir_all(&staged)?;
    Ok(image)
}

/// The suite's program, by the way that cargo tells it.
fn compile(name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--no-run", "--message-format=json"])
        .args(["-p", "berth-tests", "-p", "berth-runtime", "--test", name])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "the suite {name} did not compile");
    executable(&String::from_utf8_lossy(&output.stdout), name)
        .ok_or_else(|| anyhow!("cargo named no program for the suite {name}"))
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The guest's part: everything it writes goes to the first port, what became of it
/// to the second.
fn script(suite: &Suite, program: &Path) -> String {
    let words: Vec<String> = suite.words.iter().map(|word| quoted(word)).collect();
    format!(
        "exec </dev/null >/dev/vport0p1 2>&1 || exec poweroff -ff
echo started >/dev/vport0p2
mkdir -p {workspace}
mount --bind /payload/workspace {workspace}
cd {workspace}/tests
{wire}export HOME=/root BERTH_TEST_SLOWNESS={slowness} PATH={workspace}/target/debug:$PATH
{variables}{door}{program} {words}
echo \"exit $?\" >/dev/vport0p2
{stay}",
        workspace = quoted(&workspace().display().to_string()),
        slowness = suite.slowness,
        wire = wire::script(),
        variables = VARIABLES
            .iter()
            .filter_map(|name| Some((name, std::env::var(name).ok()?)))
            .map(|(name, value)| format!("export {name}={}\n", quoted(&value)))
            .collect::<String>(),
        door = match suite.afterwards {
            Afterwards::End => "",
            Afterwards::Stay => DOOR,
        },
        stay = match suite.afterwards {
            Afterwards::End => "",
            Afterwards::Stay => "wait\n",
        },
        program = quoted(&program.display().to_string()),
        words = words.join(" "),
    )
}

/// A shell behind the third port, from the suite's begin to the machine's end. A port that
/// nobody has open on the other side reads as ended, so there is a next shell. The port can be
/// opened once, so all three descriptors are of that.
const DOOR: &str = "while sleep 1; do
  setsid sh -i 0<>/dev/vport0p3 1>&0 2>&0
done &
";

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The static build, which `./x build` makes, in place of the one for debugging: it is
/// what people install, and under emulation it starts much faster.
fn take_static_runtime(tree: &Path) -> Result<()> {
    let built = workspace().join("target/berth/berth-oci");
    let place = tree.join("target/debug/berth-oci");
    if built.exists() {
        if place.exists() {
            fs::remove_file(&place)?;
        }
        fs::hard_link(built, place)?;
    }
    Ok(())
}

/// Puts a file of the workspace into the tree at its own place.
fn link(file: &Path, tree: &Path) -> Result<()> {
    let place = tree.join(file.strip_prefix(workspace())?);
    fs::create_dir_all(place.parent().unwrap_or(tree))?;
    fs::hard_link(file, &place).with_context(|| format!("link {}", file.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn size_mib(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::{Afterwards, Programs, Suite, executable, script};
    use std::path::Path;

    #[test]
    fn cargo_tells_where_the_suite_is() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"oci"},"profile":{"test":false},"executable":"/t/no"}
noise
{"reason":"compiler-artifact","target":{"name":"oci"},"profile":{"test":true},"executable":"/t/deps/oci-1"}"#;
        assert_eq!(
            executable(messages, "oci").as_deref(),
            Some(Path::new("/t/deps/oci-1"))
        );
        assert_eq!(executable(messages, "cri"), None);
    }

    #[test]
    fn words_reach_the_suite_as_they_are() {
        let suite = Suite {
            name: "oci".to_owned(),
            programs: Programs::Debug,
            words: vec!["a'b c".to_owned(), "--exact".to_owned()],
            slowness: 3,
            afterwards: Afterwards::End,
        };
        let text = script(&suite, Path::new("/t/oci"));
        assert!(text.contains(r"'/t/oci' 'a'\''b c' '--exact'"), "{text}");
        assert!(text.contains("BERTH_TEST_SLOWNESS=3"), "{text}");
        assert!(!text.contains("vport0p3"), "no door unless asked: {text}");
        let staying = Suite {
            afterwards: Afterwards::Stay,
            ..suite
        };
        let text = script(&staying, Path::new("/t/oci"));
        assert!(
            text.contains("vport0p3") && text.ends_with("wait\n"),
            "{text}"
        );
    }
}
