//! Deployments and Jobs as the pods that they stand for. Pure.
//!
//! On a cluster a controller makes pods from a template and gives them names at
//! random. Here the pods are numbered, so that a second run of the same
//! manifest finds those of the first.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The pods of a deployment, one a replica.
pub fn deployment_pods(deployment: &Deployment) -> Vec<Pod> {
    let replicas = deployment.spec.replicas.unwrap_or(1);
    (0..replicas)
        .map(|number| pod(&deployment.metadata, &deployment.spec.template, number))
        .collect()
}

/// What a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobPlan {
    /// So many pods must succeed; without, one, and then all that run must end.
    pub completions: Option<i32>,
    /// So many pods run at a time.
    pub parallelism: i32,
    /// With more failures the job fails.
    pub backoff_limit: i32,
    /// Each pod has a number of its own, tried until it succeeds.
    pub indexed: bool,
    /// The job fails after so many seconds.
    pub deadline_seconds: Option<u64>,
}

/// Reads what a job asks for.
pub fn plan_job(job: &Job) -> JobPlan {
    let spec = job.spec.clone().unwrap_or_default();
    JobPlan {
        completions: spec.completions,
        parallelism: spec
            .parallelism
            .unwrap_or(1)
            .min(spec.completions.unwrap_or(i32::MAX)),
        backoff_limit: spec.backoff_limit.unwrap_or(6),
        indexed: spec.completion_mode.as_deref() == Some("Indexed"),
        deadline_seconds: spec
            .active_deadline_seconds
            .and_then(|time| u64::try_from(time).ok()),
    }
}

/// One pod of a job; `number` counts the pods, `index` is the completion it works on.
pub fn job_pod(job: &Job, number: i32, index: Option<i32>) -> Pod {
    const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
    let template = job
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let mut pod = pod(&job.metadata, &template, number);
    let job_name = job.metadata.name.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("batch.kubernetes.io/job-name".to_owned(), job_name.clone());
    let Some(index) = index else { return pod };
    labels.insert(INDEX_ANNOTATION.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX_ANNOTATION.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname
            .get_or_insert_with(|| format!("{job_name}-{index}"));
        let containers = spec
            .init_containers
            .iter_mut()
            .flatten()
            .chain(&mut spec.containers);
        for container in containers {
            container.env.get_or_insert_default().push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value: Some(index.to_string()),
                ..EnvVar::default()
            });
        }
    }
    pod
}

fn pod(owner: &ObjectMeta, template: &PodTemplateSpec, number: i32) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let name = owner.name.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{number}")),
            namespace: owner.namespace.clone(),
            labels: Some(metadata.labels.unwrap_or_default()),
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The ports of this machine that two pods would both take, as `8080/TCP`.
pub fn port_conflict(pods: &[Pod]) -> Option<String> {
    let mut taken: Vec<(String, i32, String)> = Vec::new();
    for pod in pods {
        let spec = pod.spec.iter();
        let ports = spec
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten());
        for port in ports {
            let Some(number) = port.host_port.filter(|number| *number > 0) else {
                continue;
            };
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().unwrap_or_default();
            let clash = taken.iter().any(|(other, known, kind)| {
                *known == number
                    && *kind == protocol
                    && (other.is_empty() || address.is_empty() || *other == address)
            });
            if clash {
                return Some(format!("{number}/{protocol}"));
            }
            taken.push((address, number, protocol));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(replicas: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": replicas, "selector": {}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}
            }}
        }))
        .unwrap()
    }

    #[test]
    fn a_deployment_is_numbered_pods() {
        let pods = deployment_pods(&deployment(2));
        let names: Vec<_> = pods
            .iter()
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["web-0", "web-1"]);
        assert_eq!(pods[1].metadata.labels.as_ref().unwrap()["app"], "web");
    }

    #[test]
    fn one_port_cannot_lead_to_two_pods() {
        assert_eq!(port_conflict(&deployment_pods(&deployment(1))), None);
        assert_eq!(
            port_conflict(&deployment_pods(&deployment(2))).as_deref(),
            Some("8080/TCP")
        );
    }

    #[test]
    fn an_indexed_job_tells_each_pod_its_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "sum"},
            "spec": {"completions": 3, "parallelism": 5, "completionMode": "Indexed",
                "template": {"spec": {"containers": [{"name": "c"}]}}}
        }))
        .unwrap();
        let plan = plan_job(&job);
        assert_eq!(
            (plan.parallelism, plan.backoff_limit, plan.indexed),
            (3, 6, true)
        );
        let pod = job_pod(&job, 4, Some(2));
        assert_eq!(pod.metadata.name.as_deref(), Some("sum-4"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("sum-2"));
        let variable = &spec.containers[0].env.as_ref().unwrap()[0];
        assert_eq!(
            (variable.name.as_str(), variable.value.as_deref()),
            ("JOB_COMPLETION_INDEX", Some("2"))
        );
    }
}
