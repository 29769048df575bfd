use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::{
    NumberSet, SchedulePlan, SchedulerPlan, plan_memory_policy, plan_personality, plan_schedule,
};
use crate::plan::reading;

fn schedule(name: &str, value: Value) -> Result<SchedulePlan, String> {
    let mut process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
    process[name] = value;
    let process: Process =
        reading::read(process.to_string().as_bytes()).map_err(|e| e.to_string())?;
    plan_schedule(&process).map_err(|error| error.to_string())
}

#[test]
fn lists_become_masks() {
    let set = NumberSet::parse("f", "0-3,7, 64").expect("a list");
    assert_eq!(set.words(), [0b1000_1111, 1]);
    for wrong in ["a", "3-1", "-1", "1,,2", "0-70000"] {
        let error = NumberSet::parse("f", wrong).expect_err(wrong).to_string();
        assert!(
            error.starts_with("config.json: f: expected numbers"),
            "{error}"
        );
    }
}

#[test]
fn every_policy_and_flag_has_its_number() {
    for (name, number, more) in [
        ("SCHED_OTHER", 0, json!({"nice": 3})),
        ("SCHED_FIFO", 1, json!({"priority": 1})),
        ("SCHED_RR", 2, json!({"priority": 99})),
        ("SCHED_BATCH", 3, json!({"nice": -20})),
        ("SCHED_ISO", 4, json!({})),
        ("SCHED_IDLE", 5, json!({})),
        (
            "SCHED_DEADLINE",
            6,
            json!({"runtime": 1, "deadline": 2, "period": 3}),
        ),
    ] {
        let mut value = more;
        value["policy"] = json!(name);
        let plan = schedule("scheduler", value).expect(name).scheduler;
        assert_eq!(plan.expect(name).policy, number);
    }
    // The specification's words, all seven.
    let flags = json!([
        "SCHED_FLAG_RESET_ON_FORK",
        "SCHED_FLAG_RECLAIM",
        "SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS",
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX"
    ]);
    let value = json!({"policy": "SCHED_OTHER", "flags": flags});
    let plan = schedule("scheduler", value).expect("known").scheduler;
    let wanted = SchedulerPlan {
        flags: 0x7f,
        ..SchedulerPlan::default()
    };
    assert_eq!(plan, Some(wanted));
}

#[test]
fn what_does_not_go_together_names_its_field() {
    for (name, value, words) in [
        (
            "scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice: expected -20 to 19",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 5}),
            "process.scheduler.priority: expected none",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_RR", "priority": 100}),
            "process.scheduler.priority: expected 1 to 99",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_RR", "period": 100}),
            "process.scheduler.period: expected none",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_NONSENSE"}),
            "SCHED_NONSENSE",
        ),
        (
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: expected 0 to 7",
        ),
        (
            "execCPUAffinity",
            json!({"final": "3-1"}),
            "process.execCPUAffinity.final: expected numbers",
        ),
    ] {
        let error = schedule(name, value).expect_err(words);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn io_priority_is_one_number() {
    for (class, number) in [("RT", 1), ("BE", 2), ("IDLE", 3)] {
        let value = json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": 6});
        let plan = schedule("ioPriority", value).expect(class);
        assert_eq!(plan.io_priority, Some(number << 13 | 6));
    }
}

#[test]
fn memory_policies_know_their_nodes() {
    let plan = |value: Value| {
        let policy = serde_json::from_value(value).expect("the shape is right");
        plan_memory_policy(&policy).map_err(|error| error.to_string())
    };
    let interleave =
        plan(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]}));
    let interleave = interleave.expect("sound");
    assert_eq!(
        (interleave.mode, interleave.nodes.words()),
        (3 | 1 << 15, [3].as_slice())
    );
    for (mode, nodes, words) in [
        ("MPOL_DEFAULT", "0", "expected none"),
        ("MPOL_LOCAL", "0", "expected none"),
        ("MPOL_BIND", "", "expected at least one"),
        ("MPOL_WEIGHTED_INTERLEAVE", "", "expected at least one"),
    ] {
        let error = plan(json!({"mode": mode, "nodes": nodes})).expect_err(mode);
        assert!(
            error.contains("linux.memoryPolicy.nodes") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn personalities_have_no_flags() {
    let plan = |value: Value| plan_personality(&serde_json::from_value(value).expect("the shape"));
    assert_eq!(plan(json!({"domain": "LINUX"})).expect("known"), 0);
    assert_eq!(plan(json!({"domain": "LINUX32"})).expect("known"), 8);
    let error =
        plan(json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})).expect_err("a flag");
    assert!(
        error.to_string().contains("linux.personality.flags[0]"),
        "{error}"
    );
}
