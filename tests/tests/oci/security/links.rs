//! Links and strange files that an image ships where the runtime works.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{assert_secret, assert_untouched, outside, without_mounts_at};
use crate::check::{Who, check};
use crate::lab::{Lab, add, as_is, path};

/// CVE-2019-16884, CVE-2019-18837, CVE-2023-28642, CVE-2025-54867: through a link,
/// `/proc` is somewhere else for the masks than for the mount.
#[test]
fn proc_and_sys_are_no_links() {
    check(Who::Berth, |lab| {
        for place in ["proc", "sys"] {
            for target in ["/tmp/elsewhere", "../../../../../tmp", "/nowhere"] {
                let rootfs = lab.bundle("c", as_is)?.join("rootfs");
                let link = rootfs.join(place);
                fs::remove_dir(&link).or_else(|_| fs::remove_file(&link))?;
                fs::create_dir_all(rootfs.join("tmp/elsewhere"))?;
                symlink(target, &link)?;
                lab.run("true", as_is)?.complaint()?;
            }
            let link = lab.host.work_dir().join("c/rootfs").join(place);
            fs::remove_file(&link)?;
            fs::create_dir(&link)?;
        }
        Ok(())
    });
}

/// An image whose `/dev` leads to a folder of the host, and no mount over it.
fn with_dev_link(lab: &Lab, terminal: bool) -> Result<()> {
    let folder = outside(lab)?;
    let rootfs = lab.bundle("c", as_is)?.join("rootfs");
    let dev = rootfs.join("dev");
    fs::remove_dir_all(&dev).or_else(|_| fs::remove_file(&dev))?;
    symlink(&folder, &dev)?;
    let bundle = lab.bundle("c", |config| {
        without_mounts_at(config, "/dev");
        config["process"]["terminal"] = json!(terminal);
        config["process"]["args"] = json!(["sh", "-c", "cat /dev/precious; true"]);
    })?;
    // Whether it is refused or made inside: the host is not reached.
    let told = lab.call(&["run", "--bundle", path(&bundle), "c"])?;
    assert_secret(&told)?;
    assert_untouched(&folder)
}

/// CVE-2026-41579, CVE-2026-47766: nodes and links made through a `/dev` that is a link.
#[test]
fn a_dev_that_is_a_link_stays_inside() {
    check(Who::Berth, |lab| with_dev_link(lab, false));
}

/// CVE-2025-52565, CVE-2026-88264: the terminal, bound over a link of the image's.
#[test]
fn a_console_that_is_a_link_stays_inside() {
    check(Who::Berth, |lab| {
        with_dev_link(lab, true)?;
        let folder = outside(lab)?;
        let rootfs = lab.host.work_dir().join("c/rootfs");
        fs::remove_file(rootfs.join("dev"))?;
        fs::create_dir(rootfs.join("dev"))?;
        for target in [
            path(&folder.join("precious")),
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/self/fd/1",
            "console",
        ] {
            let console = rootfs.join("dev/console");
            let _ = fs::remove_file(&console);
            symlink(target, &console)?;
            let bundle = lab.bundle("c", |config| {
                let mounts = config["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| mount["destination"] != "/dev");
                config["process"]["terminal"] = json!(true);
                config["process"]["args"] = json!(["sh", "-c", "timeout 1 cat /dev/console; true"]);
            })?;
            let told = lab.call(&["run", "--bundle", path(&bundle), "c"])?;
            assert_secret(&told)?;
            assert_untouched(&folder)?;
        }
        Ok(())
    });
}

/// CVE-2025-52565: what is opened as the multiplexer must be one, not a file of
/// the image's, and not one that a link leads to.
#[test]
fn a_false_multiplexer_gives_no_terminal() {
    check(Who::Berth, |lab| {
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        let pts = rootfs.join("dev/pts");
        fs::create_dir_all(&pts)?;
        for target in ["/proc/sysrq-trigger", "/etc/passwd", "/dev/null"] {
            let _ = fs::remove_file(pts.join("ptmx"));
            symlink(target, pts.join("ptmx"))?;
            let bundle = lab.bundle("c", |config| {
                without_mounts_at(config, "/dev");
                config["process"]["terminal"] = json!(true);
                config["process"]["args"] = json!(["true"]);
            })?;
            let told = lab.call(&["run", "--bundle", path(&bundle), "c"])?;
            told.complaint()?;
        }
        Ok(())
    });
}

/// CVE-2026-88265: the null device that is opened or mounted must be one. It
/// must not be made the streams' and then the user's.
#[test]
fn a_null_device_that_is_a_link_is_not_used() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        fs::create_dir_all(rootfs.join("dev"))?;
        fs::write(rootfs.join("masked"), "of the image")?;
        for target in [
            path(&folder.join("precious")),
            "/etc/passwd",
            "/proc/sysrq-trigger",
        ] {
            let _ = fs::remove_file(rootfs.join("dev/null"));
            symlink(target, rootfs.join("dev/null"))?;
            let told = lab.run("cat /masked; cat < /dev/null; true", |config| {
                without_mounts_at(config, "/dev");
                add(&mut config["linux"]["maskedPaths"], json!("/masked"));
                config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            })?;
            told.complaint()?;
            assert_secret(&told)?;
            assert_untouched(&folder)?;
        }
        Ok(())
    });
}

/// Loops, magic links and too many of them: refused or inside, never outside.
#[test]
fn mounts_through_strange_links_stay_inside() {
    check(Who::Berth, |lab| {
        let folder = outside(lab)?;
        let source = lab.host.work_dir().join("source");
        fs::create_dir(&source)?;
        let rootfs = lab.bundle("c", as_is)?.join("rootfs");
        symlink("loop", rootfs.join("loop"))?;
        symlink("/proc/self/root", rootfs.join("magic"))?;
        symlink("/proc/1/cwd", rootfs.join("cwd"))?;
        symlink("..", rootfs.join("up"))?;
        for place in [
            "/loop/x",
            "/magic/x",
            "/cwd/x",
            "/proc/self/fd/0",
            "/proc/1/root/x",
        ] {
            lab.run("true", |config| {
                let mount = json!({"destination": place, "source": source, "options": ["bind"]});
                add(&mut config["mounts"], mount);
            })?
            .complaint()?;
        }
        let far = format!("/up/up/../..{}/new", folder.display());
        lab.text("true", |config| {
            let mount = json!({"destination": far, "source": source, "options": ["bind"]});
            add(&mut config["mounts"], mount);
        })?;
        assert_untouched(&folder)
    });
}

/// The rootfs may be a link of the caller's: followed once, before anything else.
#[test]
fn a_rootfs_that_is_a_link_is_that_folder() {
    check(Who::Berth, |lab| {
        let bundle = lab.bundle("c", as_is)?;
        symlink(bundle.join("rootfs"), bundle.join("link"))?;
        let told = lab.run(
            "ls -d /rootfs /link /secret 2>/dev/null; cat /etc/passwd | head -1",
            |config| {
                config["root"]["path"] = json!("link");
            },
        )?;
        ensure!(told.stdout.starts_with("root"), "{told:?}");
        Ok(())
    });
}
