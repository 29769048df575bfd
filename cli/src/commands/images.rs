//! `berth images`: what is here.

use berth_cri::images::{Image, ImageStore};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::amounts::{write_age_since, write_size};
use crate::error::{Context, Result};
use crate::output::{ListArguments, Rows, print_list};
use crate::settings::Settings;

/// `berth images`.
#[derive(Debug, Args)]
pub struct ImagesArguments {
    /// Only those whose name holds this text
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// How it is printed
    #[command(flatten)]
    pub list: ListArguments,
}

/// Prints the images, one line a name.
///
/// # Errors
///
/// The store cannot be read.
pub fn run(settings: &Settings, store: &ImageStore, arguments: &ImagesArguments) -> Result<u8> {
    let mut images = store.list().context("list images")?;
    if let Some(text) = &arguments.filter {
        images.retain(|image| image.references.iter().any(|name| name.contains(text)));
    }
    let values: Vec<Value> = images.iter().map(value).collect();
    let name = |value: &Value| arguments.list.id(value["id"].as_str().unwrap_or_default());
    print_list(arguments.list.form(settings.format), &values, name, || {
        let now = Timestamp::now();
        Rows {
            heads: vec!["IMAGE", "TAG", "ID", "AGE", "SIZE"],
            wide_columns: 0,
            rows: images
                .iter()
                .flat_map(|image| rows(image, arguments, now))
                .collect(),
        }
    })?;
    Ok(0)
}

fn rows(image: &Image, arguments: &ImagesArguments, now: Timestamp) -> Vec<Vec<String>> {
    let names: Vec<(&str, &str)> = match image.references.as_slice() {
        [] => vec![("<none>", "<none>")],
        names => names.iter().map(|name| split_tag(name)).collect(),
    };
    let age = image.created.map_or("-".to_owned(), |created| {
        i64::try_from(created.as_nanosecond()).map_or("-".to_owned(), |at| write_age_since(at, now))
    });
    names
        .into_iter()
        .map(|(name, tag)| {
            vec![
                name.to_owned(),
                tag.to_owned(),
                arguments.list.id(&image.id),
                age.clone(),
                write_size(image.size_bytes),
            ]
        })
        .collect()
}

/// The tag stands behind the last colon, unless that belongs to a port.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "<none>"),
    }
}

fn value(image: &Image) -> Value {
    json!({
        "id": image.id,
        "references": image.references,
        "digests": image.digests,
        "sizeBytes": image.size_bytes,
        "created": image.created.map(|created| created.to_string()),
        "layers": image.layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(
            split_tag("docker.io/library/nginx:1.29"),
            ("docker.io/library/nginx", "1.29")
        );
        assert_eq!(
            split_tag("localhost:5000/x"),
            ("localhost:5000/x", "<none>")
        );
        assert_eq!(split_tag("localhost:5000/x:y"), ("localhost:5000/x", "y"));
    }
}
