//! Stage `find-program`: the program is found now, so that `create` can say when it is not.
//!
//! `execvp(3)` would look it up at the very end, when only `start` is there to
//! hear of it. The search is the shell's: `PATH` of the program's own
//! environment, with its own rights, in its own working directory.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD};

use crate::init::Init;
use crate::plan::process::ProcessPlan;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "find-program",
    effect: "the program's file is known, and HOME is set",
    after: &["become-user", "enter-cwd"],
    see: &["execvp(3)", "access(2)", "environ(7)"],
    run: Run::Init(find_program),
};

/// Where programs are looked for when the environment is silent.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn find_program(init: &mut Init) -> Result<(), StageError> {
    let process = &init.plan.process;
    if variable(process, b"HOME").is_none() {
        let home = read_home(process.uid);
        init.home = Some(text_of([b"HOME=".as_slice(), &home].concat()));
    }
    let program = find(process)?;
    init.program = Some(text_of(program.into_os_string().into_vec()));
    Ok(())
}

fn find(process: &ProcessPlan) -> Result<PathBuf, StageError> {
    let name = OsStr::from_bytes(process.arguments[0].as_bytes());
    if name.as_bytes().contains(&b'/') {
        return check(Path::new(name))
            .map(|()| name.into())
            .map_err(|error| {
                // The words that podman, docker and containerd look for.
                let reason = match error {
                    Errno::EISDIR => "permission denied (it is a directory)".to_owned(),
                    Errno::EACCES => "permission denied".to_owned(),
                    other => format!("stat {}: {}", name.display(), other.desc().to_lowercase()),
                };
                StageError::Worded {
                    text: format!("exec: {name:?}: {reason}"),
                    call: SyscallError::new(format!("stat {}", name.display()), error),
                    advice: None,
                }
            });
    }
    let path = variable(process, b"PATH").unwrap_or(DEFAULT_PATH);
    let mut forbidden = false;
    for folder in path.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() {
            b".".as_slice()
        } else {
            folder
        };
        let file = Path::new(OsStr::from_bytes(folder)).join(name);
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(error) => forbidden |= error == Errno::EACCES && file.is_file(),
        }
    }
    // The words that podman and containerd look for.
    let (reason, errno) = match forbidden {
        true => ("permission denied", Errno::EACCES),
        false => ("executable file not found in $PATH", Errno::ENOENT),
    };
    Err(StageError::Worded {
        text: format!("exec: {name:?}: {reason}"),
        call: SyscallError::new(format!("execvp({name:?})"), errno),
        advice: None,
    })
}

/// Whether it is a file that this user may execute.
fn check(file: &Path) -> Result<(), Errno> {
    let raw = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let found = rustix::fs::stat(file).map_err(raw)?;
    if rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::EISDIR);
    }
    rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).map_err(raw)
}

fn variable<'a>(process: &'a ProcessPlan, name: &[u8]) -> Option<&'a [u8]> {
    process
        .environment
        .iter()
        .find_map(|text| text.as_bytes().strip_prefix(name)?.strip_prefix(b"="))
}

/// The sixth field of the user's line in the container's `/etc/passwd`.
fn read_home(uid: u32) -> Vec<u8> {
    let table = std::fs::read("/etc/passwd").unwrap_or_default();
    let wanted = uid.to_string();
    let lines = table.split(|byte| *byte == b'\n');
    let home = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let is_user = fields.nth(2) == Some(wanted.as_bytes());
        fields.nth(2).filter(|home| is_user && !home.is_empty())
    });
    home.into_iter().next().unwrap_or(b"/").to_vec()
}

fn text_of(bytes: Vec<u8>) -> CString {
    // What came from the kernel, a plan or a line of text; cut at a zero byte if
    // a file holds one.
    CString::new(bytes).unwrap_or_default()
}
