//! A few numbers, in the text format of Prometheus.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::agent::pods::Shared;

/// `/metrics`.
pub async fn answer(State(shared): State<Arc<Shared>>) -> Response {
    let numbers = shared.numbers();
    let mut text = String::new();
    for (name, help, value) in [
        (
            "berth_agent_pods",
            "Pods that hold resources of the node.",
            numbers.pods,
        ),
        (
            "berth_agent_statuses_waiting",
            "Statuses of pods that the server does not have yet.",
            numbers.statuses_waiting,
        ),
        (
            "berth_agent_events_waiting",
            "Events that the server does not have yet.",
            numbers.events_waiting,
        ),
    ] {
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
