use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::{Just, Strategy, any, prop, proptest};
use serde_json::{Value, json};

use super::{Action, Observed, Why, node_of, plan_daemon_set, pod_for, status};
use crate::controllers::pods;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

struct World {
    set: DaemonSet,
    nodes: BTreeMap<String, Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    made: usize,
}

impl World {
    fn new(nodes: usize, strategy: &Value) -> World {
        let set = json!({
            "metadata": {"name": "log", "namespace": "shop", "uid": "log", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "log"}}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"app": "log"}},
                    "spec": {"nodeSelector": {"log": "yes"}, "containers": [{"name": "a", "image": "v1"}]}}},
        });
        let mut world = World {
            set: serde_json::from_value(set).unwrap(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            made: 0,
        };
        for at in 0..nodes {
            world.node(&format!("n{at}"), json!({"log": "yes"}), json!([]));
        }
        world
    }

    fn node(&mut self, name: &str, labels: Value, taints: Value) {
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        self.nodes.insert(
            name.to_owned(),
            Arc::new(serde_json::from_value(node).unwrap()),
        );
    }

    fn look(&mut self, waits: BTreeMap<String, Duration>) -> Vec<Action> {
        let nodes: Vec<_> = self.nodes.values().cloned().collect();
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let observed = Observed {
            set: &self.set,
            nodes: &nodes,
            pods: &pods,
            waits,
        };
        let plan = plan_daemon_set(&observed, now());
        for action in &plan.actions {
            match action {
                Action::Create { node } => {
                    self.made += 1;
                    let name = format!("log-{:04}", self.made);
                    self.pods
                        .insert(name.clone(), Arc::new(pod_for(&self.set, node, name)));
                }
                Action::Delete { pod, .. } => {
                    self.pods
                        .remove(pod.metadata.name.as_deref().unwrap())
                        .unwrap();
                }
            }
        }
        plan.actions
    }

    fn change(&mut self, at: usize, status: Value) {
        if let Some(pod) = self.pods.values_mut().nth(at) {
            let pod = Arc::make_mut(pod);
            let node = node_of(pod).map(str::to_owned);
            pod.spec.as_mut().unwrap().node_name = node;
            pod.status = serde_json::from_value(status).unwrap();
        }
    }

    fn all_ready(&mut self) {
        for at in 0..self.pods.len() {
            self.change(at, ready());
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            if self.look(BTreeMap::new()).is_empty()
                && self.pods.values().all(|pod| pods::is_ready(pod))
            {
                return;
            }
            self.all_ready();
        }
        panic!("nobody came to rest");
    }

    fn nodes_with_pods(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.pods.values().filter_map(|pod| node_of(pod)).collect();
        nodes.sort_unstable();
        nodes
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.set.spec.template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
    }

    fn status(&self) -> Value {
        let nodes: Vec<_> = self.nodes.values().cloned().collect();
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let observed = Observed {
            set: &self.set,
            nodes: &nodes,
            pods: &pods,
            waits: BTreeMap::new(),
        };
        serde_json::to_value(status(&observed, now())).unwrap()
    }
}

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

#[test]
fn nodes_come_go_and_change() {
    let mut world = World::new(2, &json!({}));
    world.node("other", json!({}), json!([]));
    world.settle();
    assert_eq!(world.nodes_with_pods(), ["n0", "n1"]);
    world.node("n2", json!({"log": "yes"}), json!([]));
    world.settle();
    assert_eq!(world.nodes_with_pods(), ["n0", "n1", "n2"]);
    // Taints: the one keeps what is there, the other drives it out.
    world.node(
        "n0",
        json!({"log": "yes"}),
        json!([{"key": "a", "effect": "NoSchedule"}]),
    );
    world.node(
        "n1",
        json!({"log": "yes"}),
        json!([{"key": "a", "effect": "NoExecute"}]),
    );
    world.nodes.remove("n2");
    world.settle();
    assert_eq!(world.nodes_with_pods(), ["n0"]);
    assert_eq!(world.status()["numberMisscheduled"], 1);
    assert_eq!(world.status()["desiredNumberScheduled"], 0);
}

#[test]
fn a_pod_says_which_node_it_is_for() {
    let mut world = World::new(1, &json!({}));
    world.look(BTreeMap::new());
    let pod = world.pods.values().next().unwrap();
    assert_eq!((pods::node(pod), node_of(pod)), (None, Some("n0")));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.tolerations.as_ref().unwrap().len(), 6);
    assert_eq!(spec.node_selector.as_ref().unwrap()["log"], "yes");
    assert_eq!(world.status()["currentNumberScheduled"], 1);
    assert_eq!(world.status()["numberUnavailable"], 1);
}

#[test]
fn what_ended_is_deleted_and_its_node_waits() {
    let mut world = World::new(2, &json!({}));
    world.settle();
    world.change(0, json!({"phase": "Failed"}));
    let actions = world.look(BTreeMap::new());
    assert!(
        matches!(
            &actions[..],
            [Action::Delete {
                why: Why::Ended,
                ..
            }]
        ),
        "{actions:?}"
    );
    let wait = BTreeMap::from([("n0".to_owned(), Duration::from_secs(4))]);
    assert_eq!(world.look(wait), []);
    assert_eq!(
        world.look(BTreeMap::new()),
        [Action::Create {
            node: "n0".to_owned()
        }]
    );
}

#[test]
fn a_terminating_pod_holds_its_place() {
    let mut world = World::new(1, &json!({}));
    world.settle();
    let pod = Arc::make_mut(world.pods.values_mut().next().unwrap());
    pod.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(world.look(BTreeMap::new()), []);
    world.pods.clear();
    assert_eq!(world.look(BTreeMap::new()).len(), 1);
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut world = World::new(3, &json!({"type": "OnDelete"}));
    world.settle();
    world.set_image("v2");
    assert_eq!(world.look(BTreeMap::new()), []);
    assert_eq!(world.status()["updatedNumberScheduled"], 0);
    world.pods.pop_first();
    world.settle();
    assert_eq!(world.status()["updatedNumberScheduled"], 1);
}

#[derive(Debug, Clone)]
enum Step {
    Look,
    Ready(prop::sample::Index),
    Image(u8),
}

fn step() -> impl Strategy<Value = Step> {
    proptest::prop_oneof![
        4 => Just(Step::Look),
        4 => any::<prop::sample::Index>().prop_map(Step::Ready),
        1 => (0..3_u8).prop_map(Step::Image),
    ]
}

proptest! {
    #[test]
    fn an_update_takes_no_more_nodes_than_allowed(
        nodes in 1..7_usize,
        (surge, unavailable) in (0..3_usize, 0..3_usize),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let rolling = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let mut world = World::new(nodes, &rolling);
        world.settle();
        let allowed = if surge + unavailable == 0 { 1 } else if surge > 0 { 0 } else { unavailable };
        for step in steps {
            match step {
                Step::Look => {
                    world.look(BTreeMap::new());
                }
                Step::Ready(index) => world.change(index.index(world.pods.len().max(1)), ready()),
                Step::Image(image) => world.set_image(&format!("v{image}")),
            }
            let available = world.nodes.keys().filter(|node| {
                world.pods.values().any(|pod| node_of(pod) == Some(node) && pods::is_ready(pod))
            });
            proptest::prop_assert!(available.count() + allowed >= nodes);
            let most = if surge > 0 { nodes + surge } else { nodes };
            proptest::prop_assert!(world.pods.len() <= most);
        }
        world.set_image("last");
        world.settle();
        proptest::prop_assert_eq!(world.pods.len(), nodes);
        proptest::prop_assert_eq!(&world.status()["updatedNumberScheduled"], nodes);
    }
}
