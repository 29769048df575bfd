use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::{
    Dialect, Majors, plan_creation_properties, plan_device_properties, plan_properties, set_bits,
};
use crate::cgroup::devices::plan_rules;
use crate::cgroup::tree::CgroupVersion;
use crate::dbus::Value;

const V2: Dialect = Dialect {
    cgroup: CgroupVersion::V2,
    version: 253,
};
const V1: Dialect = Dialect {
    cgroup: CgroupVersion::V1,
    version: 253,
};

fn planned(json: serde_json::Value, dialect: Dialect) -> Vec<(String, Value)> {
    let resources: LinuxResources = serde_json::from_value(json).expect("resources");
    plan_properties(&resources, dialect).expect("properties")
}

fn numbers(json: serde_json::Value, dialect: Dialect) -> Vec<(String, u64)> {
    let number = |(name, value)| match value {
        Value::Uint64(number) => (name, number),
        other => panic!("{name}: {other:?}"),
    };
    planned(json, dialect).into_iter().map(number).collect()
}

fn same(found: Vec<(String, u64)>, wanted: &[(&str, u64)]) {
    let found: Vec<_> = found
        .iter()
        .map(|(name, number)| (&**name, *number))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn memory_and_processes() {
    let resources =
        json!({"memory": {"limit": 100, "swap": 150, "reservation": 50}, "pids": {"limit": -1}});
    same(
        numbers(resources.clone(), V2),
        &[
            ("MemoryMax", 100),
            ("MemoryLow", 50),
            ("MemorySwapMax", 50),
            ("TasksMax", u64::MAX),
        ],
    );
    same(
        numbers(resources, V1),
        &[("MemoryLimit", 100), ("TasksMax", u64::MAX)],
    );
    same(
        numbers(json!({"memory": {"limit": -1}}), V2),
        &[("MemoryMax", u64::MAX), ("MemorySwapMax", u64::MAX)],
    );
    same(
        numbers(
            json!({"memory": {"limit": 0, "swap": 0}, "pids": {"limit": 0}}),
            V2,
        ),
        &[],
    );
}

#[test]
fn processors() {
    same(
        numbers(
            json!({"cpu": {"shares": 1024, "quota": 33_333, "period": 100_000}}),
            V2,
        ),
        // Whole percents, rounded up.
        &[
            ("CPUWeight", 100),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUQuotaPerSecUSec", 340_000),
        ],
    );
    same(
        numbers(json!({"cpu": {"shares": 512, "quota": -1}}), V1),
        &[("CPUShares", 512), ("CPUQuotaPerSecUSec", u64::MAX)],
    );
    same(
        numbers(json!({"cpu": {"shares": 512, "idle": 1}}), V2),
        &[("CPUWeight", 0)],
    );
    let old = Dialect { version: 239, ..V2 };
    same(
        numbers(
            json!({"cpu": {"quota": 5, "period": 10, "cpus": "0-1", "idle": 1}}),
            old,
        ),
        &[("CPUQuotaPerSecUSec", 500_000)],
    );
}

#[test]
fn sets_are_bits() {
    let planned = planned(json!({"cpu": {"cpus": "0-2,9", "mems": "0"}}), V2);
    let bytes = |bytes: &[u8]| {
        let bytes = bytes.iter().map(|byte| Value::Byte(*byte)).collect();
        Value::Array("y".to_owned(), bytes)
    };
    assert_eq!(
        planned,
        [
            ("AllowedCPUs".to_owned(), bytes(&[7, 2])),
            ("AllowedMemoryNodes".to_owned(), bytes(&[1])),
        ]
    );
    for text in ["", ",", "2-1", "x", "1-", "99999999999"] {
        assert_eq!(set_bits(text), None, "{text}");
    }
}

#[test]
fn unified_files_that_systemd_knows() {
    let files = json!({"unified": {
        "memory.high": "100", "memory.swap.max": "max", "pids.max": "0", "cpu.max": "max 50000",
        "cpu.weight": "7", "io.max": "8:0 rbps=5", "memory.oom.group": "1",
    }});
    same(
        numbers(files.clone(), V2),
        &[
            ("CPUQuotaPeriodUSec", 50_000),
            ("CPUQuotaPerSecUSec", u64::MAX),
            ("CPUWeight", 7),
            ("MemoryHigh", 100),
            ("MemorySwapMax", u64::MAX),
            ("TasksMax", 1),
        ],
    );
    let resources: LinuxResources = serde_json::from_value(files).expect("resources");
    assert_eq!(
        plan_creation_properties(&resources, V2),
        [("OOMPolicy".to_owned(), Value::text("kill"))]
    );
    let wrong: LinuxResources =
        serde_json::from_value(json!({"unified": {"memory.max": "much"}})).expect("resources");
    let error = plan_properties(&wrong, V2)
        .expect_err("no number")
        .to_string();
    assert!(
        error.starts_with("linux.resources.unified.memory.max: "),
        "{error}"
    );
}

fn devices(json: serde_json::Value) -> (String, Vec<(String, String)>) {
    let resources: LinuxResources =
        serde_json::from_value(json!({ "devices": json })).expect("resources");
    let rules = plan_rules(resources.devices().as_ref()).expect("rules");
    let majors = Majors::parse(
        "Character devices:\n  1 mem\n136 pts\n 10 misc\n\nBlock devices:\n  8 sd\n259 blkext\n",
    );
    let properties = plan_device_properties(&rules, &majors);
    let policy = properties[0].1.as_text().expect("a policy").to_owned();
    let Value::Array(_, list) = &properties[1].1 else {
        panic!("{properties:?}");
    };
    let pair = |entry: &Value| match entry {
        Value::Struct(pair) => {
            let text = |index: usize| pair[index].as_text().expect("a text").to_owned();
            (text(0), text(1))
        }
        other => panic!("{other:?}"),
    };
    (policy, list.iter().map(pair).collect())
}

#[test]
fn devices_are_listed() {
    let (policy, list) = devices(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 8, "access": "rw"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
        {"allow": true, "type": "c", "major": 4000, "access": "r"},
    ]));
    assert_eq!(policy, "strict");
    let has = |path: &str, rights: &str| list.contains(&(path.to_owned(), rights.to_owned()));
    assert!(has("block-sd", "rw"), "{list:?}");
    assert!(has("/dev/char/10:229", "r"), "{list:?}");
    assert!(has("/dev/char/1:3", "rwm"), "{list:?}");
    assert!(has("char-pts", "rwm"), "{list:?}");
    assert!(has("char-*", "m") && has("block-*", "m"), "{list:?}");
    // No driver has that number, so there is no device either.
    assert!(
        !list.iter().any(|(path, _)| path.contains("4000")),
        "{list:?}"
    );
}

#[test]
fn a_container_with_all_devices_has_no_rules_of_systemd() {
    let (policy, list) = devices(json!([{"allow": true, "access": "rwm"}]));
    assert_eq!((policy.as_str(), list.len()), ("auto", 0));
}
