//! Which sandboxes and containers a filter lets through.

use std::collections::HashMap;

use crate::engine::records::PodRecord;
use crate::engine::spec::process::parse_signal;
use crate::engine::view::ContainerView;
use crate::v1;

/// Id and labels; the state is asked for apart, since it needs the monitor.
pub(super) fn sandbox_matches(filter: &v1::PodSandboxFilter, record: &PodRecord) -> bool {
    is_prefix(&filter.id, &record.id)
        && labels_match(&filter.label_selector, &record.config.0.labels)
}

/// Id, sandbox, state and labels.
pub(super) fn container_matches(filter: &v1::ContainerFilter, view: &ContainerView) -> bool {
    is_prefix(&filter.id, &view.record.id)
        && is_prefix(&filter.pod_sandbox_id, &view.record.pod_id)
        && filter
            .state
            .as_ref()
            .is_none_or(|wanted| wanted.state == view.state as i32)
        && labels_match(&filter.label_selector, &view.record.config.0.labels)
}

/// An empty wish matches everything.
pub(super) fn is_prefix(wanted: &str, id: &str) -> bool {
    id.starts_with(wanted)
}

/// Every pair of the selector is among the labels.
fn labels_match(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The CRI's name of a signal's number.
pub(super) fn cri_signal(number: i32) -> v1::Signal {
    (1..=65)
        .filter_map(|code| v1::Signal::try_from(code).ok())
        .find(|signal| {
            let name = signal
                .as_str_name()
                .trim_start_matches("SIGNAL_")
                .replace("PLUS", "+")
                .replace("MINUS", "-");
            parse_signal(&name) == Some(number)
        })
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_a_selector_counts() {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<HashMap<_, _>>()
        };
        let labels = map(&[("app", "web"), ("tier", "front")]);
        assert!(labels_match(&map(&[]), &labels));
        assert!(labels_match(&map(&[("app", "web")]), &labels));
        assert!(!labels_match(
            &map(&[("app", "web"), ("tier", "back")]),
            &labels
        ));
        assert!(!labels_match(&map(&[("other", "")]), &labels));
    }

    #[test]
    fn signals_have_their_names_back() {
        assert_eq!(cri_signal(15), v1::Signal::Sigterm);
        assert_eq!(cri_signal(3), v1::Signal::Sigquit);
        assert_eq!(cri_signal(37), v1::Signal::Sigrtminplus3);
        assert_eq!(cri_signal(0), v1::Signal::RuntimeDefault);
    }
}
