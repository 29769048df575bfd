//! `berth logs --cluster` and `berth exec --cluster`: pods of the cluster, wherever they run.
//!
//! Two worlds have pods: this machine (`berth run`) and the cluster. The words of the
//! local commands mean this machine, as ever; `--cluster` says that the cluster is
//! meant. Nothing is guessed: a pod of the same name may be in both.

use clap::Args;

use crate::cluster::api::ClusterArguments;

/// `berth exec --cluster`.
pub mod exec;
/// `berth logs --cluster`.
pub mod logs;

/// What says that the cluster is meant.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Pods of the cluster")]
pub struct RemoteArguments {
    /// A pod of the cluster, and not of this machine
    #[arg(long)]
    pub cluster: bool,
    /// Its namespace
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub namespace: Option<String>,
    /// Which cluster
    #[command(flatten)]
    pub which: ClusterArguments,
}

/// `POD` or `POD/CONTAINER`, as the local commands have it; `pod/POD` as kubectl has it.
pub fn parse_target(target: &str) -> (&str, Option<&str>) {
    let target = target.strip_prefix("pod/").unwrap_or(target);
    match target.split_once('/') {
        Some((pod, container)) => (pod, Some(container)),
        None => (target, None),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_target;

    #[test]
    fn a_pod_is_named_as_in_both_worlds() {
        assert_eq!(parse_target("web"), ("web", None));
        assert_eq!(parse_target("web/main"), ("web", Some("main")));
        assert_eq!(parse_target("pod/web"), ("web", None));
        assert_eq!(parse_target("pod/web/main"), ("web", Some("main")));
    }
}
