//! CVE-2019-5736: the runtime's program, overwritten from inside.
//!
//! Each case lets a copy of the runtime be seen by a process that keeps a
//! descriptor of it and writes through that once nobody executes it any more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{call_copy, grant};
use crate::check::{Who, check};
use crate::lab::{Lab, as_is, copy_program, eventually, path};

/// Waits for a process with another program than ours, keeps it open, and then
/// tries to write for a second after it has ended. A shell opens for reading;
/// what counts is that `/proc/self/fd/9` leads to the file.
const THIEF: &str = r#"
own=$(stat -L -c %d:%i /proc/self/exe); : > /ready
while :; do
  for p in /proc/[0-9]*; do
    other=$(stat -L -c %d:%i $p/exe 2>/dev/null) || continue
    [ "$other" = "$own" ] && continue
    (exec 9<$p/exe) 2>/dev/null && exec 9<$p/exe && break 2
  done
done
: > /held; kill -9 ${p#/proc/} 2>/dev/null
i=0; while [ $i -lt 100 ]; do
  (echo overwritten > /proc/self/fd/9) 2>/dev/null && break
  chmod 777 /proc/self/fd/9 2>/dev/null; i=$((i + 1)); sleep 0.01
done; : > /tried; sleep 1000"#;

/// The runtime to be attacked, and its bytes.
fn target(lab: &Lab) -> Result<(PathBuf, Vec<u8>)> {
    let program = lab.host.work_dir().join("runtime");
    copy_program(&lab.runtime.path, &program)?;
    Ok((program, fs::read(&lab.runtime.path)?))
}

fn assert_whole(program: &Path, bytes: &[u8]) -> Result<()> {
    ensure!(
        fs::read(program)? == bytes,
        "the runtime's program was written to"
    );
    Ok(())
}

/// Whether the thief got hold of something; asks for a while.
fn exists(file: &Path) -> Result<()> {
    eventually(|| {
        ensure!(file.exists(), "{} is awaited", file.display());
        Ok(())
    })
}

/// A thief that may look at everything sees programs come in by `exec`.
#[test]
fn exec_does_not_hand_it_over() {
    check(Who::All, |lab| {
        let (program, bytes) = target(lab)?;
        lab.start("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", THIEF]);
            grant(
                config,
                &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_FOWNER"],
            );
        })?;
        let rootfs = lab.host.work_dir().join("c/rootfs");
        exists(&rootfs.join("ready"))?;
        for _ in 0..30 {
            // It may be killed by the thief, which is no escape.
            call_copy(lab, &program, &["exec", "c", "true"])?;
            if rootfs.join("held").exists() {
                exists(&rootfs.join("tried"))?;
                break;
            }
        }
        assert_whole(&program, &bytes)?;
        lab.remove("c")
    });
}

/// The program in the image is a link to `/proc/self/exe`, or has it as its
/// interpreter: then the kernel executes the runtime itself, inside.
#[test]
fn an_image_that_executes_it_does_not_get_it() {
    check(Who::All, |lab| {
        let (program, bytes) = target(lab)?;
        for entry in ["link", "interpreter"] {
            lab.start("c", |config| {
                config["process"]["args"] = json!(["sh", "-c", THIEF]);
                grant(config, &["CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
            })?;
            let rootfs = lab.host.work_dir().join("c/rootfs");
            exists(&rootfs.join("ready"))?;
            let file = rootfs.join("bin/evil");
            let _ = fs::remove_file(&file);
            match entry {
                "link" => std::os::unix::fs::symlink("/proc/self/exe", &file)?,
                _ => fs::write(&file, "#!/proc/self/exe\n")?,
            }
            lab.exec("c", "chmod 755 /bin/evil 2>/dev/null; true")?;
            // Its state is a pipe without a writer, so whoever reads it stays.
            lab.exec(
                "c",
                "mkdir -p /evil/x; mkfifo /evil/x/state.json /evil/x/status 2>/dev/null; true",
            )?;
            let mut running = Vec::new();
            for _ in 0..3 {
                let words = ["exec", "c", "/bin/evil", "--root", "/evil", "state", "x"];
                let mut command = lab.host.command(&program);
                command.arg("--root").arg(lab.root()).args(words);
                command.stdin(std::process::Stdio::null());
                running.push(crate::outcome::start(&mut command)?);
            }
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
            while !rootfs.join("tried").exists() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            lab.remove("c")?;
            drop(running);
            assert_whole(&program, &bytes)?;
            for name in ["ready", "held", "tried"] {
                let _ = fs::remove_file(rootfs.join(name));
            }
        }
        Ok(())
    });
}

/// Init that waits for `start` still is the runtime, and `exec` can look at it.
#[test]
fn an_init_that_waits_does_not_hand_it_over() {
    check(Who::All, |lab| {
        let (program, bytes) = target(lab)?;
        let bundle = lab.bundle("c", |config| {
            grant(
                config,
                &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_FOWNER"],
            );
        })?;
        call_copy(lab, &program, &["create", "--bundle", path(&bundle), "c"])?.text()?;
        let words = ["exec", "--detach", "c", "sh", "-c", THIEF];
        call_copy(lab, &program, &words)?.text()?;
        let rootfs = bundle.join("rootfs");
        // The thief kills init, which a process inside cannot do to number 1.
        exists(&rootfs.join("held"))?;
        call_copy(lab, &program, &["start", "c"])?.text()?;
        exists(&rootfs.join("tried"))?;
        assert_whole(&program, &bytes)?;
        lab.remove("c")
    });
}

/// Who walks makes a container's process too, and stands still in the middle of it.
#[test]
fn a_walk_does_not_hand_it_over() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        let mut command = lab.command(&["step", "--bundle", path(&bundle), "c"]);
        let mut walk = crate::outcome::start(command.stdin(std::process::Stdio::piped()))?;
        let input = walk.take_stdin();
        let program = format!("/proc/{}/exe", walk.pid());
        eventually(|| {
            let mount = rustix::fs::statvfs(&program)?.f_flag;
            let expected = rustix::fs::StatVfsMountFlags::RDONLY;
            ensure!(mount.contains(expected), "it is on a mount with {mount:?}");
            Ok(())
        })?;
        drop(input);
        let ended = walk.wait()?;
        ensure!(ended.code == 1, "{ended:?}");
        Ok(())
    });
}
