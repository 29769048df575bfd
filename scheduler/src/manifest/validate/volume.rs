//! Rules of one volume.

use k8s_openapi::api::core::v1::{KeyToPath, Volume};

use super::Problems;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
];

pub(super) fn validate(volume: &Volume, path: &str, problems: &mut Problems<'_>) {
    let count = [
        volume.empty_dir.is_some(),
        volume.host_path.is_some(),
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.downward_api.is_some(),
        volume.projected.is_some(),
    ];
    problems.add_if(
        count.into_iter().filter(|present| *present).count() != 1,
        path,
        "expected one of emptyDir, hostPath, configMap, secret, downwardAPI, projected",
    );
    if let Some(source) = &volume.empty_dir {
        let path = format!("{path}.emptyDir.medium");
        let medium = source
            .medium
            .as_deref()
            .filter(|medium| !medium.starts_with("HugePages"));
        problems.one_of(&path, medium, &["", "Memory"]);
        let huge = source
            .medium
            .as_deref()
            .is_some_and(|medium| medium.starts_with("HugePages"));
        problems.add_if(
            huge,
            &path,
            "huge pages as a volume are not built yet; expected Memory",
        );
    }
    if let Some(source) = &volume.host_path {
        let target = format!("{path}.hostPath.path");
        problems.add_if(
            !source.path.starts_with('/'),
            &target,
            "expected an absolute path",
        );
        let climbs = source.path.split('/').any(|part| part == "..");
        problems.add_if(climbs, &target, "may not hold `..`");
        problems.one_of(
            &format!("{path}.hostPath.type"),
            source.type_.as_deref(),
            &HOST_PATH_TYPES,
        );
    }
    if let Some(source) = &volume.config_map {
        problems.add_if(
            source.name.is_empty(),
            &format!("{path}.configMap.name"),
            "required field is missing",
        );
        items(
            source.items.as_deref(),
            &format!("{path}.configMap"),
            problems,
        );
        mode(
            source.default_mode,
            &format!("{path}.configMap.defaultMode"),
            problems,
        );
    }
    if let Some(source) = &volume.secret {
        let missing = source.secret_name.as_deref().is_none_or(str::is_empty);
        problems.add_if(
            missing,
            &format!("{path}.secret.secretName"),
            "required field is missing",
        );
        items(source.items.as_deref(), &format!("{path}.secret"), problems);
        mode(
            source.default_mode,
            &format!("{path}.secret.defaultMode"),
            problems,
        );
    }
    if let Some(source) = &volume.downward_api {
        mode(
            source.default_mode,
            &format!("{path}.downwardAPI.defaultMode"),
            problems,
        );
        for (index, item) in source.items.iter().flatten().enumerate() {
            let path = format!("{path}.downwardAPI.items[{index}].path");
            relative(&item.path, &path, problems);
        }
    }
    if let Some(source) = &volume.projected {
        mode(
            source.default_mode,
            &format!("{path}.projected.defaultMode"),
            problems,
        );
        for (index, source) in source.sources.iter().flatten().enumerate() {
            let path = format!("{path}.projected.sources[{index}]");
            let lists = [
                (
                    "configMap",
                    source
                        .config_map
                        .as_ref()
                        .and_then(|source| source.items.as_deref()),
                ),
                (
                    "secret",
                    source
                        .secret
                        .as_ref()
                        .and_then(|source| source.items.as_deref()),
                ),
            ];
            for (name, list) in lists {
                items(list, &format!("{path}.{name}"), problems);
            }
            let fields = source
                .downward_api
                .iter()
                .flat_map(|source| source.items.iter().flatten());
            for (index, item) in fields.enumerate() {
                relative(
                    &item.path,
                    &format!("{path}.downwardAPI.items[{index}].path"),
                    problems,
                );
            }
        }
    }
}

fn items(items: Option<&[KeyToPath]>, path: &str, problems: &mut Problems<'_>) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = format!("{path}.items[{index}]");
        relative(&item.path, &format!("{path}.path"), problems);
        mode(item.mode, &format!("{path}.mode"), problems);
    }
}

/// A path that would leave the volume is refused here and again where it is written.
fn relative(value: &str, path: &str, problems: &mut Problems<'_>) {
    let climbs = value.is_empty()
        || value.starts_with('/')
        || value.split('/').any(|part| part == "..")
        || value.starts_with("..");
    problems.add_if(climbs, path, "expected a relative path without `..`");
}

fn mode(value: Option<i32>, path: &str, problems: &mut Problems<'_>) {
    if let Some(value) = value
        && !(0..=0o777).contains(&value)
    {
        problems.add(
            path,
            format!("expected 0 to 0777, found {value:#o} ({value} in decimal)"),
        );
    }
}
