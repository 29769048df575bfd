//! Which failures count, and which end a job.
//!
//! Read more: "Pod failure policy" and "Success policy" in the Kubernetes
//! documentation.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::v1::Pod,
};

use super::indexes;
use crate::controllers::pods;

/// How often an index failed before this pod.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// What a pod's failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Count,
    /// It does not count; another pod takes its place.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The job has failed, for this reason in words.
    FailJob(String),
}

/// What a pod's failure means by the job's policy: the first rule that fits.
pub fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec
        .pod_failure_policy
        .iter()
        .flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let Some(what) = fits(rule, pod) else {
            continue;
        };
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!(
                "{what} of pod {pod} matching FailJob rule at index {at}"
            )),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// What of a pod fits a rule.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        return fitting_exit(codes, pod);
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    for pattern in patterns {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if pods::condition(pod, &pattern.type_).is_some_and(|is| is.status == wanted) {
            return Some(format!("condition {}", pattern.type_));
        }
    }
    None
}

fn fitting_exit(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    all.find_map(|container| {
        let named = codes.container_name.as_ref();
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        let among = codes.values.contains(&ended.exit_code);
        // A container that succeeded is no reason, whatever the rule says.
        let fits = ended.exit_code != 0
            && named.is_none_or(|name| *name == container.name)
            && match codes.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                _ => false,
            };
        fits.then(|| {
            format!(
                "exit code {} of container {}",
                ended.exit_code, container.name
            )
        })
    })
}

/// Whether the indexes that succeeded suffice, by a rule of the job.
pub fn suffices(spec: &JobSpec, succeeded: &BTreeSet<i32>) -> Option<String> {
    let below = spec.completions.unwrap_or(0);
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let wanted = rule
            .succeeded_indexes
            .as_ref()
            .map(|text| indexes::parse(text, below));
        let has = match &wanted {
            Some(wanted) => succeeded.intersection(wanted).count(),
            None => succeeded.len(),
        };
        let needs = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(wanted)) => wanted.len(),
            (None, None) => continue,
        };
        if has >= needs {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}
