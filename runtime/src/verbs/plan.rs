//! `plan`: what `create` would do, as data, and nothing is done.

use std::path::Path;

use super::create::prepare;
use super::state::print_json;
use crate::arguments::{CreateArguments, Global, PlanArguments, PlanFormat};
use crate::creation::Gate;
use crate::error::{Error, ErrorKind};
use crate::ids::ContainerId;
use crate::outline::outline;

/// Prints the plan that `create` would carry out.
///
/// # Errors
///
/// The same as of `create`, for all that can be known without doing it.
pub fn plan(global: &Global, arguments: &PlanArguments) -> Result<i32, Error> {
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => name_of(&arguments.bundle),
    };
    let create = CreateArguments {
        bundle: arguments.bundle.clone(),
        config: arguments.config.clone(),
        id,
        ..CreateArguments::default()
    };
    let creation = prepare(global, &create, Gate::Start)?;
    let outline = outline(&creation)
        .map_err(|error| Error::new(ErrorKind::BadInput, crate::causes::chain(&error)))?;
    match arguments.format {
        PlanFormat::Json => print_json(&outline),
        PlanFormat::Text => super::state::print_text(&outline),
    }
}

/// The bundle's own name where that can be an id.
fn name_of(bundle: &Path) -> String {
    let whole = bundle.canonicalize().unwrap_or_default();
    let name = whole.file_name().and_then(|name| name.to_str());
    name.filter(|name| ContainerId::parse(name).is_ok())
        .unwrap_or("container")
        .to_owned()
}
