//! Time namespaces: clocks of the container's own.
//!
//! The referees of Debian 12 cannot be asked: runc knows them from 1.2 on, and
//! crun 1.8 cannot set offsets on this kernel.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, add, holds, same};
use crate::userns::{hand_over, isolate};

const WEEK: f64 = 604_800.0;

/// A namespace whose clocks are a week ahead.
fn ahead(config: &mut Value) {
    add(&mut config["linux"]["namespaces"], json!({"type": "time"}));
    config["linux"]["timeOffsets"] = json!({
        "monotonic": {"secs": 604_800, "nanosecs": 5}, "boottime": {"secs": 604_800},
    });
}

/// How far a text's first number is from the machine's uptime, in weeks.
fn weeks_ahead(told: &str) -> Result<i64> {
    let seconds = |text: &str| -> Result<f64> {
        Ok(text.split(' ').next().unwrap_or_default().trim().parse()?)
    };
    let ahead = seconds(told)? - seconds(&fs::read_to_string("/proc/uptime")?)?;
    #[allow(clippy::cast_possible_truncation, reason = "a few weeks")]
    Ok((ahead / WEEK).round() as i64)
}

fn link(lab: &Lab, id: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{}/ns/time", lab.pid(id)?))?;
    Ok(link.display().to_string())
}

#[test]
fn clocks_have_their_offsets() {
    check(Who::Berth, |lab| {
        let told = lab.text("cat /proc/uptime", ahead)?;
        ensure!(weeks_ahead(&told)? == 1, "{told}");
        let told = lab.text("cat /proc/self/timens_offsets | tr -s ' '", ahead)?;
        same(told, "monotonic 604800 5\nboottime 604800 0")
    });
}

#[test]
fn without_offsets_it_is_the_hosts_time_in_a_namespace_of_its_own() {
    check(Who::Berth, |lab| {
        lab.start("c", |config| {
            add(&mut config["linux"]["namespaces"], json!({"type": "time"}));
        })?;
        let host = fs::read_link("/proc/self/ns/time")?.display().to_string();
        ensure!(link(lab, "c")? != host);
        ensure!(weeks_ahead(&lab.exec("c", "cat /proc/uptime")?)? == 0);
        lab.remove("c")
    });
}

#[test]
fn exec_has_the_containers_clocks() {
    check(Who::Berth, |lab| {
        lab.start("c", ahead)?;
        let told = lab.exec("c", "cat /proc/uptime")?;
        ensure!(weeks_ahead(&told)? == 1, "{told}");
        let told = lab.exec("c", "readlink /proc/self/ns/time")?;
        same(told, &link(lab, "c")?)?;
        lab.remove("c")
    });
}

#[test]
fn one_may_be_joined_by_its_path() {
    check(Who::Berth, |lab| {
        lab.start("one", ahead)?;
        let first = lab.pid("one")?;
        lab.start("two", |config| {
            let path = format!("/proc/{first}/ns/time");
            add(
                &mut config["linux"]["namespaces"],
                json!({"type": "time", "path": path}),
            );
        })?;
        same(link(lab, "two")?, &link(lab, "one")?)?;
        ensure!(weeks_ahead(&lab.exec("two", "cat /proc/uptime")?)? == 1);
        lab.remove("two")?;
        lab.remove("one")
    });
}

#[test]
fn it_goes_with_ids_of_its_own() {
    check(Who::Berth, |lab| {
        lab.bundle("c", isolate)?;
        hand_over(lab, "c")?;
        let told = lab.text("cat /proc/uptime; id -u; echo $$", |config| {
            isolate(config);
            ahead(config);
        })?;
        ensure!(weeks_ahead(&told)? == 1, "{told}");
        ensure!(
            told.ends_with("\n0\n1"),
            "root, and the first of its pids: {told}"
        );
        Ok(())
    });
}

#[test]
fn offsets_that_cannot_be_are_refused_by_name() {
    check(Who::Berth, |lab| {
        let offsets = |namespace: bool, offsets: Value| {
            lab.run("true", |config| {
                if namespace {
                    add(&mut config["linux"]["namespaces"], json!({"type": "time"}));
                }
                config["linux"]["timeOffsets"] = offsets;
            })
        };
        let second = json!({"secs": 1});
        holds(
            offsets(false, json!({"monotonic": second}))?.complaint()?,
            &["linux.timeOffsets", "no time namespace"],
        )?;
        holds(
            offsets(true, json!({"realtime": second}))?.complaint()?,
            &[
                "linux.timeOffsets.realtime",
                "expected boottime or monotonic",
            ],
        )?;
        let long = json!({"monotonic": {"nanosecs": 1_000_000_000}});
        holds(
            offsets(true, long)?.complaint()?,
            &["linux.timeOffsets.monotonic.nanosecs", "found 1000000000"],
        )?;
        let before = json!({"boottime": {"secs": -4_000_000_000i64}});
        holds(
            offsets(true, before)?.complaint()?,
            &["linux.timeOffsets", "boottime -4000000000", "negative"],
        )
    });
}
