//! Network devices that move into a container. None of the elder two of this age
//! know them, so the kernel is asked itself.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, holds, same};
use crate::outcome::finish;

/// A pair of devices on the machine, one with addresses.
fn make_pair(lab: &Lab) -> Result<()> {
    ip(lab, "link add mover type veth peer name stays")?;
    ip(lab, "link set mover mtu 1400 address 02:00:00:00:00:07 up")?;
    ip(lab, "link set stays up")?;
    ip(lab, "address add 10.99.0.7/24 dev mover")?;
    ip(lab, "address add fd99::7/64 dev mover nodad")?;
    // Neither is to be kept: one goes by itself, one is of the link only.
    ip(
        lab,
        "address add 10.98.0.7/24 dev mover valid_lft 500 preferred_lft 400",
    )?;
    ip(lab, "address add 10.97.0.7/24 scope link dev mover")?;
    Ok(())
}

fn ip(lab: &Lab, words: &str) -> Result<String> {
    let mut command = lab.host.command("ip");
    finish(command.args(words.split(' ')))?.text()
}

fn devices(config: &mut Value, devices: Value) {
    config["linux"]["netDevices"] = devices;
}

#[test]
fn a_device_moves_with_its_name_and_addresses() {
    check(Who::Berth, |lab| {
        make_pair(lab)?;
        let script = "ip -o address show dev eth0; ip -o link show eth0";
        let told = lab.text(script, |config| {
            devices(config, json!({"mover": {"name": "eth0"}}))
        })?;
        holds(
            &told,
            &[
                "10.99.0.7/24",
                "fd99::7/64",
                "mtu 1400",
                "02:00:00:00:00:07",
                "UP,LOWER_UP",
            ],
        )?;
        for gone in ["10.98.0.7", "10.97.0.7"] {
            ensure!(!told.contains(gone), "{gone} stayed: {told}");
        }
        // It went with the container's namespace, and its peer with it.
        Ok(())
    });
}

#[test]
fn a_template_gets_a_number() {
    check(Who::Berth, |lab| {
        make_pair(lab)?;
        let told = lab.text(
            "ip -o -4 address show dev net0; ip -o link show net0",
            |config| {
                devices(config, json!({"mover": {"name": "net%d"}}));
            },
        )?;
        holds(told, &["10.99.0.7/24", "UP,LOWER_UP"])
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_moves() {
    check(Who::Berth, |lab| {
        make_pair(lab)?;
        let refused = lab.run("true", |config| {
            devices(config, json!({"mover": {"name": "lo"}}));
        })?;
        holds(
            refused.complaint()?,
            &[
                "stage move-links",
                "linux.netDevices[\"mover\"].name",
                "\"lo\" already",
            ],
        )?;
        stays(lab)?;
        let refused = lab.run("true", |config| devices(config, json!({"nothing": {}})))?;
        holds(
            refused.complaint()?,
            &["linux.netDevices[\"nothing\"]", "no such device"],
        )?;
        ip(lab, "link del mover").map(drop)
    });
}

#[test]
fn a_device_comes_back_when_the_container_fails() {
    check(Who::Berth, |lab| {
        make_pair(lab)?;
        let refused = lab.run("true", |config| {
            devices(config, json!({"mover": {"name": "eth0"}}));
            config["process"]["args"] = json!(["/no/such/program"]);
        })?;
        holds(refused.complaint()?, &["no such file or directory"])?;
        stays(lab)?;
        ip(lab, "link del mover").map(drop)
    });
}

#[test]
fn without_a_network_namespace_nothing_can_move() {
    check(Who::Berth, |lab| {
        let refused = lab.run("true", |config| {
            devices(config, json!({"lo": {}}));
            let own = config["linux"]["namespaces"].as_array_mut();
            own.unwrap()
                .retain(|namespace| namespace["type"] != "network");
        })?;
        holds(
            refused.complaint()?,
            &["linux.netDevices[\"lo\"]", "a network namespace is needed"],
        )
    });
}

/// The device is where and as it was.
fn stays(lab: &Lab) -> Result<()> {
    let told = ip(lab, "-o address show dev mover")?;
    holds(told, &["10.99.0.7/24", "fd99::7/64"])?;
    let link = ip(lab, "-o link show mover")?;
    holds(&link, &["state UP"])?;
    same(
        if link.contains("mtu 1400") {
            "kept"
        } else {
            "lost"
        },
        "kept",
    )
}
