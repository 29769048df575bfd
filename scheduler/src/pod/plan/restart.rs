//! Whether a container that ended is started again.
//!
//! ```text
//!            pod says     Always    OnFailure   Never
//! main, exit 0            again     done        done
//! main, exit not 0        again     again       failed
//! init, exit 0            done      done        done
//! init, exit not 0        again     again       failed
//! sidecar                 again     again       again
//! ```
//!
//! A container that the worker itself ended, because a probe or a hook failed, is
//! started again whatever its exit code, unless the policy is Never: a program
//! that ends well when it is told to has not done its work.
//!
//! A container's own `restartPolicy` stands in for the pod's, and the first of
//! its rules that names the exit code stands in for both.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// Unless the exit code is 0.
    OnFailure,
    /// At no exit code.
    Never,
}

impl RestartPolicy {
    /// As the API writes it; the API's default for everything else.
    pub fn from_name(name: Option<&str>) -> RestartPolicy {
        match name {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        }
    }
}

/// A container's part in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays, beside all that come after it.
    Sidecar,
    /// What the pod is for.
    Main,
}

impl Role {
    /// The part of one of the pod's `initContainers`.
    pub fn of_init(container: &Container) -> Role {
        match container.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        }
    }
}

/// What happens after a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExit {
    /// It is started again, after the back-off.
    Restart,
    /// It has done its work.
    Succeeded,
    /// It has not, and stays as it is.
    Failed,
}

/// What one container's end means.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartRules {
    policy: RestartPolicy,
    rules: Vec<ContainerRestartRule>,
}

impl RestartRules {
    /// The rules of one container.
    pub fn new(container: &Container, role: Role, of_pod: RestartPolicy) -> RestartRules {
        let policy = match &container.restart_policy {
            Some(own) => RestartPolicy::from_name(Some(own)),
            None => of_pod,
        };
        RestartRules {
            policy: match (role, policy) {
                // An init container that succeeded has done its work for good.
                (Role::Init, RestartPolicy::Always) => RestartPolicy::OnFailure,
                (_, policy) => policy,
            },
            rules: container.restart_policy_rules.clone().unwrap_or_default(),
        }
    }

    /// What happens after this exit code.
    pub fn after_exit(&self, exit_code: i32) -> AfterExit {
        if self.rules.iter().any(|rule| matches(rule, exit_code)) {
            return AfterExit::Restart;
        }
        match (self.policy, exit_code) {
            (RestartPolicy::Always, _) => AfterExit::Restart,
            (_, 0) => AfterExit::Succeeded,
            (RestartPolicy::OnFailure, _) => AfterExit::Restart,
            (RestartPolicy::Never, _) => AfterExit::Failed,
        }
    }

    /// What happens after the worker itself ended a container beyond help.
    pub fn after_doom(&self, exit_code: i32) -> AfterExit {
        match self.policy {
            RestartPolicy::Always | RestartPolicy::OnFailure => AfterExit::Restart,
            RestartPolicy::Never => self.after_exit(exit_code),
        }
    }
}

fn matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else {
        return false;
    };
    let named = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "NotIn" => !named,
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::{AfterExit, RestartPolicy, RestartRules, Role};
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};

    fn rules(fields: Value, role: Role, of_pod: RestartPolicy) -> RestartRules {
        let container: Container = serde_json::from_value(fields).unwrap();
        RestartRules::new(&container, role, of_pod)
    }

    #[test]
    fn every_pair_of_role_and_policy() {
        use AfterExit::{Failed, Restart, Succeeded};
        use RestartPolicy::{Always, Never, OnFailure};
        let table = [
            (Role::Main, Always, Restart, Restart),
            (Role::Main, OnFailure, Succeeded, Restart),
            (Role::Main, Never, Succeeded, Failed),
            (Role::Init, Always, Succeeded, Restart),
            (Role::Init, OnFailure, Succeeded, Restart),
            (Role::Init, Never, Succeeded, Failed),
        ];
        for (role, policy, after_zero, after_one) in table {
            let rules = rules(json!({"name": "a"}), role, policy);
            let found = (rules.after_exit(0), rules.after_exit(1));
            assert_eq!(found, (after_zero, after_one), "{role:?} {policy:?}");
        }
        for policy in [Always, OnFailure, Never] {
            let sidecar = json!({"name": "a", "restartPolicy": "Always"});
            let rules = rules(sidecar, Role::Sidecar, policy);
            assert_eq!(
                (rules.after_exit(0), rules.after_exit(1)),
                (Restart, Restart)
            );
        }
    }

    #[test]
    fn who_was_ended_for_a_probe_is_started_again_unless_never() {
        use AfterExit::{Failed, Restart, Succeeded};
        use RestartPolicy::{Always, Never, OnFailure};
        let table = [
            (Always, Restart, Restart),
            (OnFailure, Restart, Restart),
            (Never, Succeeded, Failed),
        ];
        for (policy, after_zero, after_one) in table {
            let rules = rules(json!({"name": "a"}), Role::Main, policy);
            let found = (rules.after_doom(0), rules.after_doom(1));
            assert_eq!(found, (after_zero, after_one), "{policy:?}");
        }
    }

    #[test]
    fn rules_by_exit_code_win() {
        let fields = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        let found = rules(fields, Role::Main, RestartPolicy::Always);
        assert_eq!(found.after_exit(42), AfterExit::Restart);
        assert_eq!(found.after_exit(41), AfterExit::Failed);
        assert_eq!(found.after_exit(0), AfterExit::Succeeded);
        let fields = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 1]}}]});
        let found = rules(fields, Role::Main, RestartPolicy::Always);
        assert_eq!(found.after_exit(7), AfterExit::Restart);
        assert_eq!(found.after_exit(1), AfterExit::Failed);
    }
}
