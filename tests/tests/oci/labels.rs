//! Labels of SELinux and AppArmor, and the keyring.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, holds};
use crate::outcome::Outcome;

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text[0] == b'Y')
}

/// A label that is refused names its field, whatever the reason.
fn refused(told: &Outcome, field: &str, module: &str, enabled: bool) -> Result<()> {
    let complaint = told.complaint()?;
    match enabled {
        true => holds(complaint, &[field]),
        false => holds(complaint, &[field, module, "not enabled in this kernel"]),
    }
}

#[test]
fn a_label_that_cannot_be_kept_is_refused() {
    check(Who::Berth, |lab| {
        let label = "system_u:system_r:no_such_type_t:s0:c1,c2";
        let told = lab.run("true", |config| {
            config["process"]["selinuxLabel"] = json!(label)
        })?;
        refused(&told, "process.selinuxLabel", "SELinux", has_selinux())?;
        let told = lab.run("true", |config| {
            config["process"]["apparmorProfile"] = json!("no-such")
        })?;
        refused(&told, "process.apparmorProfile", "AppArmor", has_apparmor())?;
        if !has_selinux() {
            let told = lab.run("true", |config| {
                config["linux"]["mountLabel"] = json!(label)
            })?;
            refused(&told, "linux.mountLabel", "SELinux", false)?;
        }
        Ok(())
    });
}

#[test]
fn exec_is_refused_the_same() {
    check(Who::Berth, |lab| {
        lab.start("c", as_is)?;
        for (flag, field, module, enabled) in [
            (
                "--process-label",
                "process.selinuxLabel",
                "SELinux",
                has_selinux(),
            ),
            (
                "--apparmor",
                "process.apparmorProfile",
                "AppArmor",
                has_apparmor(),
            ),
        ] {
            let told = lab.call(&["exec", flag, "no-such", "c", "true"])?;
            refused(&told, field, module, enabled)?;
        }
        lab.remove("c")
    });
}

#[test]
fn an_empty_label_asks_for_none() {
    check(Who::All, |lab| {
        lab.text("true", |config| {
            config["process"]["selinuxLabel"] = json!("");
            config["process"]["apparmorProfile"] = json!("");
            config["linux"]["mountLabel"] = json!("");
        })
        .map(drop)
    });
}

/// The keys that a container of this name sees; all of root's are among them, so
/// no other case may have the name.
fn keys(lab: &Lab, id: &str, extra: &[&str]) -> Result<String> {
    let bundle = lab.bundle(id, |config| {
        config["process"]["args"] = json!(["sh", "-c", "cat /proc/keys"]);
        config["linux"]["maskedPaths"] = json!([]);
    })?;
    let words = [
        &["run"],
        extra,
        &["--bundle", crate::lab::path(&bundle), id],
    ]
    .concat();
    lab.call(&words)?.text()
}

#[test]
fn the_session_keyring_is_the_containers_and_can_be_searched() {
    check(Who::All, |lab| {
        holds(keys(lab, "ring", &[])?, &["3f1b0000", "_ses.ring"])
    });
}

#[test]
fn the_callers_keyring_stays_where_that_is_asked_for() {
    check(Who::All, |lab| {
        let told = keys(lab, "kept", &["--no-new-keyring"])?;
        anyhow::ensure!(!told.contains("_ses.kept"), "{told}");
        Ok(())
    });
}
