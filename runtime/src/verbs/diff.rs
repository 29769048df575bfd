//! `diff`: what two configurations differ in, and what that means.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::state::{print_json, print_text};
use crate::arguments::{DiffArguments, PlanFormat};
use crate::difference::{Difference, compare};
use crate::error::{Error, ErrorKind};

/// The exit status of diff(1) when the two differ.
const DIFFERENT: i32 = 1;

/// Prints the differences; the exit status is 0 for none and 1 for some.
///
/// # Errors
///
/// A configuration that cannot be read; the exit status is 2 then.
pub fn diff(arguments: &DiffArguments) -> Result<i32, Error> {
    let (a, b) = (file_of(&arguments.a), file_of(&arguments.b));
    let found = compare(&read(&a)?, &read(&b)?);
    match arguments.format {
        PlanFormat::Json => print_json(&json!({
            "version": 1,
            "a": a.display().to_string(),
            "b": b.display().to_string(),
            "same": found.is_empty(),
            "differences": found,
        }))?,
        PlanFormat::Text => print_text(&text_of(&found))?,
    };
    Ok(if found.is_empty() { 0 } else { DIFFERENT })
}

/// A bundle stands for the configuration in it.
fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join("config.json")
    } else {
        path.to_owned()
    }
}

fn read(file: &Path) -> Result<Value, Error> {
    let bytes = std::fs::read(file).map_err(|error| Error::of_file(file, &error))?;
    let wrong = |error: serde_json::Error| {
        Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display()))
    };
    // As a configuration first: two files that are no configurations have no
    // meaning to compare.
    serde_json::from_slice::<Spec>(&bytes).map_err(wrong)?;
    serde_json::from_slice(&bytes).map_err(wrong)
}

fn text_of(found: &[Difference]) -> String {
    let mut text = String::new();
    for difference in found {
        let Difference { path, a, b, means } = difference;
        let shown = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "-".to_owned(), Value::to_string)
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{path}\n  A: {}\n  B: {}\n  {means}",
            shown(a),
            shown(b)
        );
    }
    text
}
