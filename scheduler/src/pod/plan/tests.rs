//! A whole pod, from its manifest to what the CRI is asked for.

use super::{
    PodPlan,
    container::{ContainerSurroundings, Launch, PullPolicy},
    environment::plan_environment,
    facts::PodFacts,
    plan_pod,
    restart::Role,
    security::ImageUser,
};
use crate::{
    manifest::read_manifests,
    pod::{objects::PodObjects, settings::WorkerConfig},
};
use berth_cri::v1;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, uid: u-1, labels: {app: shop, io.kubernetes.pod.name: liar}}
spec:
  terminationGracePeriodSeconds: 7
  activeDeadlineSeconds: 60
  securityContext: {sysctls: [{name: net/ipv4/ip_forward, value: '1'}]}
  initContainers:
  - {name: side, image: 'side:1', restartPolicy: Always}
  - {name: init, image: init}
  containers:
  - name: main
    image: nginx@sha256:1111111111111111111111111111111111111111111111111111111111111111
    command: [sh, -c, 'echo $(NAME) $(none)']
    args: ['$$(NAME)']
    env: [{name: NAME, value: v}]
    ports: [{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}, {containerPort: 53, protocol: UDP}]
    lifecycle: {stopSignal: SIGQUIT, preStop: {sleep: {seconds: 1}}}
";

fn config() -> WorkerConfig {
    WorkerConfig::new("/v".into(), "/l".into())
}

fn plan(text: &str) -> Result<PodPlan, String> {
    let pod = read_manifests(text, "test").unwrap().pods.remove(0);
    plan_pod(pod, &config(), &v1::DnsConfig::default()).map_err(|error| error.to_string())
}

#[test]
fn the_sandbox_is_named_as_a_kubelet_names_it() {
    let plan = plan(POD).unwrap();
    let sandbox = &plan.sandbox;
    let metadata = sandbox.metadata.as_ref().unwrap();
    assert_eq!(
        (
            metadata.name.as_str(),
            metadata.namespace.as_str(),
            metadata.uid.as_str()
        ),
        ("web", "default", "u-1")
    );
    assert_eq!(sandbox.log_directory, "/l/default_web_u-1");
    assert_eq!(sandbox.hostname, "web");
    assert_eq!(sandbox.labels["app"], "shop");
    assert_eq!(sandbox.labels["io.kubernetes.pod.name"], "web");
    assert_eq!(sandbox.port_mappings.len(), 1);
    assert_eq!(sandbox.port_mappings[0].host_port, 8080);
    let linux = sandbox.linux.as_ref().unwrap();
    assert_eq!(linux.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(
        (plan.grace.as_secs(), plan.deadline.unwrap().as_secs()),
        (7, 60)
    );
}

#[test]
fn containers_have_roles_and_policies() {
    let plan = plan(POD).unwrap();
    let found: Vec<_> = plan
        .init_containers
        .iter()
        .chain(&plan.containers)
        .map(|container| (container.name(), container.role, container.pull_policy))
        .collect();
    assert_eq!(
        found,
        [
            ("side", Role::Sidecar, PullPolicy::IfNotPresent),
            ("init", Role::Init, PullPolicy::Always),
            ("main", Role::Main, PullPolicy::IfNotPresent),
        ]
    );
}

#[test]
fn a_container_is_asked_for_as_a_kubelet_asks() {
    let plan = plan(POD).unwrap();
    let config = config();
    let objects = PodObjects::default();
    let facts = PodFacts {
        pod: &plan.pod,
        objects: &objects,
        node: &config.node,
        addresses: &[],
    };
    let main = &plan.containers[0];
    let around = ContainerSurroundings {
        spec: &plan.spec,
        identity: &plan.identity,
        qos: plan.qos,
        grace: plan.grace,
        config: &config,
    };
    let launch = Launch {
        attempt: 3,
        image_id: "sha256:22".to_owned(),
        image_user: ImageUser::default(),
        environment: plan_environment(&facts, &main.spec).unwrap(),
        mounts: Vec::new(),
    };
    let asked = main.config(&around, launch).unwrap();
    assert_eq!(asked.command, ["sh", "-c", "echo v $(none)"]);
    assert_eq!(asked.args, ["$(NAME)"]);
    assert_eq!(asked.log_path, "main/3.log");
    assert_eq!(asked.stop_signal(), v1::Signal::Sigquit);
    let image = asked.image.unwrap();
    assert_eq!(image.image, "sha256:22");
    assert!(image.user_specified_image.starts_with("nginx@sha256:"));
    assert_eq!(asked.labels["io.kubernetes.container.name"], "main");
    assert_eq!(
        asked.annotations["io.kubernetes.container.restartCount"],
        "3"
    );
    assert_eq!(
        asked.annotations["io.kubernetes.container.preStopHandler"],
        "{\"sleep\":{\"seconds\":1}}"
    );
}

#[test]
fn what_cannot_be_asked_for_is_named_by_field() {
    let pod = |metadata: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {metadata}, spec: {{containers: [{{name: a, image: b}}]}}}}"
        );
        plan(&text).unwrap_err()
    };
    assert!(pod("{name: a}").starts_with("metadata.uid: expected a value"));
    assert!(pod("{name: a, uid: ../../etc}").contains("cannot be part of a path"));
}
