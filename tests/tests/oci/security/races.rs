//! Files that somebody exchanges in a loop while a container is made.
//!
//! `renameat2(RENAME_EXCHANGE)` swaps a folder and a link without a moment in
//! between. Who shares a volume with a container can do that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::{assert_secret, assert_untouched, outside, without_mounts_at};
use crate::check::{Who, check};
use crate::lab::{Lab, add, as_is};

/// Containers made against each exchange; some hundreds of exchanges fall into one.
const ROUNDS: usize = 40;

/// Works while two names are exchanged without end.
fn while_exchanged<T>(one: &Path, other: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                std::thread::yield_now();
            }
        });
        let outcome = work();
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

fn rounds(lab: &Lab, script: &str, change: impl Fn(&mut serde_json::Value)) -> Result<()> {
    for _ in 0..ROUNDS {
        // A refusal is as good as a container that is whole.
        assert_secret(&lab.run(script, &change)?)?;
    }
    Ok(())
}

/// CVE-2021-30465, CVE-2024-45310: the target of a mount is exchanged, and the
/// folders that are missing below it are made elsewhere.
#[test]
fn a_mounts_target() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let source = lab.host.work_dir().join("source");
        fs::create_dir(&source)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        let (place, link) = (rootfs.join("place"), rootfs.join("link"));
        fs::create_dir(&place)?;
        symlink(&folder, &link)?;
        while_exchanged(&place, &link, || {
            rounds(
                lab,
                "cat /place/precious /link/precious 2>/dev/null; true",
                |config| {
                    for below in ["/place/new/deep", "/place/file"] {
                        let mount =
                            json!({"destination": below, "source": source, "options": ["bind"]});
                        add(&mut config["mounts"], mount);
                    }
                },
            )
        })?;
        assert_untouched(&folder)
    });
}

/// CVE-2019-19921, CVE-2023-27561: `/proc` itself is exchanged.
#[test]
fn proc_itself() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        fs::create_dir(rootfs.join("false"))?;
        symlink("/false", rootfs.join("link"))?;
        let script = "cat /proc/keys; echo x > /proc/sys/kernel/hostname && echo of the host; true";
        while_exchanged(&rootfs.join("proc"), &rootfs.join("link"), || {
            rounds(lab, script, |_| {})
        })?;
        assert_untouched(&folder)
    });
}

/// CVE-2025-31133: the null device is exchanged before it masks.
#[test]
fn the_null_device() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        fs::create_dir_all(rootfs.join("dev"))?;
        symlink(folder.join("precious"), rootfs.join("dev/link"))?;
        fs::write(rootfs.join("shown"), "of the host")?;
        let null = rootfs.join("dev/null");
        rustix::fs::mknodat(
            CWD,
            &null,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 3),
        )?;
        while_exchanged(&null, &rootfs.join("dev/link"), || {
            rounds(lab, "cat /shown", |config| {
                without_mounts_at(config, "/dev");
                add(&mut config["linux"]["maskedPaths"], json!("/shown"));
            })
        })?;
        assert_untouched(&folder)
    });
}

/// CVE-2025-31133, CVE-2025-52565: `/dev` is exchanged while nodes, links and
/// the terminal are made in it.
#[test]
fn the_devices_folder() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        fs::create_dir_all(rootfs.join("dev"))?;
        symlink(&folder, rootfs.join("link"))?;
        while_exchanged(&rootfs.join("dev"), &rootfs.join("link"), || {
            rounds(
                lab,
                "cat /dev/precious /link/precious 2>/dev/null; true",
                |config| {
                    without_mounts_at(config, "/dev");
                },
            )
        })?;
        assert_untouched(&folder)
    });
}

/// A bind mount's source is looked up once: it is the one folder or the other,
/// whole, and read-only stays with what is mounted.
#[test]
fn a_bind_mounts_source() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let (source, link) = (
            lab.host.work_dir().join("source"),
            lab.host.work_dir().join("link"),
        );
        fs::create_dir(&source)?;
        symlink(&folder, &link)?;
        while_exchanged(&source, &link, || {
            for _ in 0..ROUNDS {
                let told = lab.run(
                    "echo x > /place/precious; echo x > /place/new; true",
                    |config| {
                        let mount = json!({
                            "destination": "/place", "source": source, "options": ["bind", "ro"]
                        });
                        add(&mut config["mounts"], mount);
                    },
                )?;
                ensure!(told.code == 0, "{told:?}");
            }
            Ok(())
        })?;
        assert_untouched(&folder)
    });
}
