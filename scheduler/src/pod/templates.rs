//! Deployments and Jobs beside a pod: what pods they are, and how long.
//!
//! On one machine no controller loop is needed: whoever runs a manifest runs
//! its pods, each with a worker, and follows a small plan of how many. A
//! Deployment wants a number of pods at all times; a Job wants a number of pods
//! that succeeded.
//!
//! Read more: "Deployments" and "Jobs" in the Kubernetes documentation.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{EnvVar, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::plan::names;

/// How many pods a job still needs, as a value.
pub mod job;
/// Running the pods of a Deployment or a Job.
pub mod run;

/// A job's name on its pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// A pod's index in an indexed job.
const JOB_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// What tells the pods of one template from those of an edited one.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The pods of a Deployment: `NAME-0` to `NAME-(replicas - 1)`.
///
/// The names are numbers, not random, so that the same manifest names the same
/// pods each time.
pub fn deployment_pods(deployment: &Deployment) -> Vec<Pod> {
    let replicas = deployment.spec.replicas.unwrap_or(1).max(0);
    (0..replicas)
        .map(|index| deployment_pod(deployment, index))
        .collect()
}

/// One pod of a Deployment.
fn deployment_pod(deployment: &Deployment, index: i32) -> Pod {
    let template = &deployment.spec.template;
    let hash = names::digest(template);
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let labels = [(TEMPLATE_HASH.to_owned(), hash)];
    let name = format!("{name}-{index}");
    of_template(template, &deployment.metadata, name, labels)
}

/// One pod of a job; `serial` counts the pods that were begun before it.
pub fn job_pod(job: &Job, pod: job::Numbered) -> Pod {
    let job_name = job.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &job.spec else {
        return Pod::default();
    };
    let name = match (pod.index, pod.retry) {
        (Some(index), 0) => format!("{job_name}-{index}"),
        (Some(index), retry) => format!("{job_name}-{index}-{retry}"),
        (None, _) => format!("{job_name}-{}", pod.serial),
    };
    let labels = [
        (JOB_NAME.to_owned(), job_name.to_owned()),
        ("job-name".to_owned(), job_name.to_owned()),
    ];
    let mut made = of_template(&spec.template, &job.metadata, name, labels);
    if let Some(index) = pod.index {
        set_index(&mut made, job_name, index);
    }
    made
}

/// Tells a pod of an indexed job which part of the work is its own.
fn set_index(pod: &mut Pod, job_name: &str, index: i32) {
    let text = index.to_string();
    for map in [&mut pod.metadata.labels, &mut pod.metadata.annotations] {
        map.get_or_insert_with(BTreeMap::new)
            .insert(JOB_INDEX.to_owned(), text.clone());
    }
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname
        .get_or_insert_with(|| format!("{job_name}-{index}"));
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        let variable = EnvVar {
            name: "JOB_COMPLETION_INDEX".to_owned(),
            value: Some(text.clone()),
            value_from: None,
        };
        // In front, so that the container's own variables can refer to it.
        container
            .env
            .get_or_insert_with(Vec::new)
            .insert(0, variable);
    }
}

fn of_template<const N: usize>(
    template: &PodTemplateSpec,
    owner: &ObjectMeta,
    name: String,
    labels: [(String, String); N],
) -> Pod {
    let of_template = template.metadata.clone().unwrap_or_default();
    let mut all = of_template.labels.unwrap_or_default();
    all.extend(labels);
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: owner.namespace.clone(),
            labels: Some(all),
            annotations: of_template.annotations,
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{deployment_pods, job::Numbered, job_pod};
    use crate::manifest::read_manifests;

    #[test]
    fn a_deployment_is_numbered_pods() {
        let text = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {note: a}}
    spec: {containers: [{name: main, image: nginx}]}
";
        let manifests = read_manifests(text, "test").unwrap();
        let pods = deployment_pods(&manifests.deployments[0]);
        let names: Vec<&str> = pods
            .iter()
            .map(|pod| pod.metadata.name.as_deref().unwrap())
            .collect();
        assert_eq!(names, ["web-0", "web-1"]);
        let metadata = &pods[0].metadata;
        assert_eq!(metadata.namespace.as_deref(), Some("shop"));
        let labels = metadata.labels.as_ref().unwrap();
        assert_eq!(labels["app"], "web");
        assert_eq!(labels["pod-template-hash"].len(), 16);
        assert_eq!(metadata.annotations.as_ref().unwrap()["note"], "a");
    }

    #[test]
    fn an_indexed_job_tells_each_pod_its_index() {
        let text = "
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: sum, env: [{name: PART, value: 'part-$(JOB_COMPLETION_INDEX)'}]}]
";
        let manifests = read_manifests(text, "test").unwrap();
        let numbered = Numbered {
            serial: 7,
            index: Some(2),
            retry: 1,
        };
        let pod = job_pod(&manifests.jobs[0], numbered);
        assert_eq!(pod.metadata.name.as_deref(), Some("sum-2-1"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("sum-2"));
        let env = spec.containers[0].env.as_ref().unwrap();
        assert_eq!(
            (env[0].name.as_str(), env[0].value.as_deref()),
            ("JOB_COMPLETION_INDEX", Some("2"))
        );
        assert_eq!(pod.metadata.labels.unwrap()["job-name"], "sum");
        let plain = Numbered {
            serial: 7,
            index: None,
            retry: 0,
        };
        let pod = job_pod(&manifests.jobs[0], plain);
        assert_eq!(pod.metadata.name.as_deref(), Some("sum-7"));
    }
}
