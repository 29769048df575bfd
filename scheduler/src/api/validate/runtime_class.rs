//! Rules of RuntimeClasses.
//!
//! Read more: "Runtime Class" in Kubernetes' documentation; KEP 688 (overhead).

use serde_json::{Value, json};

use super::{
    checks::{Checks, items, text},
    container, names, pod,
};
use crate::api::error::FieldError;

pub(super) fn check(class: &Value, checks: &mut Checks) {
    checks.named("handler", text(class, "handler"), names::dns_label_problem);
    // An overhead is counted like a limit, by the same rules.
    let fixed = json!({"limits": class["overhead"]["podFixed"]});
    let mut of_limits = Checks::default();
    container::check_resources("overhead", &fixed, &mut of_limits);
    for mut error in of_limits.found {
        error.field = error.field.replacen(".limits", ".podFixed", 1);
        checks.add(error);
    }
    let scheduling = &class["scheduling"];
    checks.labels("scheduling.nodeSelector", &scheduling["nodeSelector"]);
    let tolerations = &scheduling["tolerations"];
    pod::check_tolerations("scheduling.tolerations", tolerations, checks);
    for (index, one) in items(tolerations) {
        let earlier = items(tolerations).take(index);
        if earlier.into_iter().any(|(_, other)| other == one) {
            let field = format!("scheduling.tolerations[{index}]");
            checks.add(FieldError::duplicate(field, one.to_string()));
        }
    }
}
