use std::sync::Arc;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::{Bounds, Numbers, Round, plan_new, plan_proportional, plan_rolling, resolve};

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    let spec = json!({"replicas": replicas, "strategy": strategy, "selector": {}, "template": {}});
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

fn set(name: &str, replicas: i32, available: i32, maximum: i32) -> Arc<ReplicaSet> {
    let annotation = json!({"deployment.kubernetes.io/max-replicas": maximum.to_string()});
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": annotation},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "availableReplicas": available},
        }))
        .unwrap(),
    )
}

fn bounds(replicas: i32, surge: i32, unavailable: i32) -> Bounds {
    Bounds {
        replicas,
        surge,
        unavailable,
    }
}

#[test]
fn surge_rounds_up_and_unavailability_down() {
    let percent = |text: &str| Some(IntOrString::String(text.to_owned()));
    for (value, of, up, down) in [
        (percent("25%"), 10, 3, 2),
        (percent("25%"), 1, 1, 0),
        (percent("0%"), 10, 0, 0),
        (percent("100%"), 3, 3, 3),
        (Some(IntOrString::Int(2)), 10, 2, 2),
        (None, 4, 1, 1),
        (percent("many"), 4, 1, 1),
    ] {
        assert_eq!(
            resolve(value.as_ref(), "25%", of, Round::Up),
            up,
            "{value:?}"
        );
        assert_eq!(
            resolve(value.as_ref(), "25%", of, Round::Down),
            down,
            "{value:?}"
        );
    }
}

#[test]
fn bounds_always_leave_room_to_move() {
    let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let of = |replicas, strategy| Bounds::of(&deployment(replicas, strategy));
    assert_eq!(of(10, json!({})), bounds(10, 3, 2));
    assert_eq!(of(10, rolling(json!(0), json!("5%"))), bounds(10, 0, 1));
    assert_eq!(of(3, rolling(json!(0), json!(9))), bounds(3, 0, 3));
    assert_eq!(of(3, json!({"type": "Recreate"})), bounds(3, 0, 3));
    assert_eq!(of(0, json!({})).maximum(), 0);
    assert_eq!(of(10, json!({})).maximum(), 13);
    assert_eq!(of(10, json!({})).minimum(), 8);
}

#[test]
fn a_new_set_takes_what_room_there_is() {
    for (bounds, new, old, expected) in [
        (bounds(10, 3, 2), 0, 10, 3),
        (bounds(10, 3, 2), 3, 8, 5),
        (bounds(10, 3, 2), 8, 0, 10),
        (bounds(10, 0, 1), 0, 10, 0),
        (bounds(10, 0, 1), 0, 9, 1),
        (bounds(4, 1, 0), 6, 0, 4),
        (bounds(0, 1, 0), 2, 0, 0),
    ] {
        assert_eq!(
            plan_new(bounds, new, old),
            expected,
            "{bounds:?} {new} {old}"
        );
    }
}

#[test]
fn old_sets_shrink_by_what_nobody_misses_first() {
    let step = |bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>]| {
        let Numbers { new, old } = plan_rolling(bounds, new, old);
        (new, old)
    };
    // The new pods are there but not available: only what is above the line goes.
    let new = set("new", 3, 0, 13);
    assert_eq!(
        step(bounds(10, 3, 2), &new, &[set("a", 10, 10, 13)]),
        (3, vec![8])
    );
    let new = set("new", 5, 3, 13);
    assert_eq!(
        step(bounds(10, 3, 2), &new, &[set("a", 8, 8, 13)]),
        (5, vec![5])
    );
    // Broken old pods go first, even of the set that is newer.
    let old = [set("a", 5, 5, 13), set("b", 5, 0, 13)];
    let new = set("new", 3, 0, 13);
    assert_eq!(step(bounds(10, 3, 2), &new, &old), (3, vec![5, 3]));
    // Nothing is available: nothing that is may go, and nothing is.
    let new = set("new", 1, 0, 4);
    assert_eq!(
        step(bounds(3, 1, 0), &new, &[set("a", 3, 3, 4)]),
        (1, vec![3])
    );
    let new = set("new", 1, 1, 4);
    assert_eq!(
        step(bounds(3, 1, 0), &new, &[set("a", 3, 3, 4)]),
        (1, vec![2])
    );
}

#[test]
fn a_scaling_keeps_the_proportions() {
    for (replicas, surge, sets, expected) in [
        (10, 0, [set("a", 5, 5, 5), set("b", 0, 0, 5)], [10, 0]),
        (20, 0, [set("a", 8, 8, 10), set("b", 2, 2, 10)], [16, 4]),
        (15, 3, [set("a", 8, 8, 13), set("b", 5, 0, 13)], [11, 7]),
        (5, 0, [set("a", 8, 8, 10), set("b", 2, 2, 10)], [4, 1]),
        (0, 0, [set("a", 8, 8, 10), set("b", 2, 2, 10)], [0, 0]),
        (11, 0, [set("a", 5, 5, 10), set("b", 5, 5, 10)], [5, 6]),
    ] {
        let bounds = bounds(replicas, surge, 0);
        let numbers = plan_proportional(bounds, &sets);
        assert_eq!(numbers, expected, "{replicas}");
        assert_eq!(numbers.iter().sum::<i32>(), bounds.maximum());
    }
}
