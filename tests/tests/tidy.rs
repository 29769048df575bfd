//! What the compiler does not see: names, headers, links, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &[
    "base", "common", "core", "handler", "helper", "helpers", "impl", "manager", "misc", "mod",
    "types", "util", "utils",
];

/// A page can hold about 400 lines; past this a file hides several nouns.
const LONGEST_LINES: usize = 800;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Files below the workspace with one of the endings, without what is built or fetched.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![top()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of the workspace")
            .flatten()
        {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    waiting.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file ends with {endings:?}");
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with all findings at once.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn names_say_what_is_inside() {
    let empty = |path: &PathBuf| {
        let mut parts = path.strip_prefix(top()).expect("below it").iter();
        parts.any(|part| {
            let name = Path::new(part)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            EMPTY_NAMES.contains(&&*name)
        })
    };
    none(
        files(&[".rs"])
            .iter()
            .filter(|path| empty(path))
            .map(|path| path.display().to_string())
            .collect(),
    );
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let mut findings = Vec::new();
    for path in files(&[".rs"]) {
        let is_tests = path.file_stem().is_some_and(|name| name == "tests");
        let first = text(&path);
        if !is_tests && !first.starts_with("//!") {
            findings.push(format!(
                "{}: no module doc in the first line",
                path.display()
            ));
        }
    }
    none(findings);
}

#[test]
fn no_file_hides_several_nouns() {
    let mut findings = Vec::new();
    for path in files(&[".rs"]) {
        let lines = text(&path).lines().count();
        // A table of cases may be long.
        let is_tests = path.file_stem().is_some_and(|name| name == "tests");
        if !is_tests && lines > LONGEST_LINES {
            findings.push(format!(
                "{}: {lines} lines; split it by its nouns",
                path.display()
            ));
        }
    }
    none(findings);
}

#[test]
fn there_is_one_door_to_the_kernel() {
    let door = top().join("runtime/src/sys");
    let mut findings = Vec::new();
    for path in files(&[".rs"]) {
        // Suites call the kernel for what they stage.
        let is_suite = path.iter().any(|part| part == "tests");
        let is_ours = !path.starts_with(&door) && !is_suite;
        let opens = text(&path).lines().any(|line| {
            let code = line.trim_start();
            !code.starts_with("//") && (code.contains("unsafe {") || code.contains("unsafe fn"))
        });
        if is_ours && opens {
            findings.push(format!(
                "{}: unsafe outside of runtime/src/sys",
                path.display()
            ));
        }
    }
    for crate_name in ["cri", "netd", "scheduler"] {
        let path = top().join(crate_name).join("src/lib.rs");
        if !text(&path).contains("#![forbid(unsafe_code)]") {
            findings.push(format!("{}: does not forbid unsafe code", path.display()));
        }
    }
    none(findings);
}

#[test]
fn unfinished_work_names_where_it_is_kept() {
    // Written in two parts, so that this file does not find itself.
    let word = concat!("TO", "DO");
    let mut findings = Vec::new();
    for path in files(&[".rs", ".md", ".toml", ".sh"]) {
        for (index, line) in text(&path).lines().enumerate() {
            let bare = line.contains(word)
                && !["correctness", "robustness", "scale"]
                    .iter()
                    .any(|kind| line.contains(&format!("{word}({kind})")));
            if bare {
                findings.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    none(findings);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut findings = Vec::new();
    for path in files(&[".md"]) {
        let folder = path.parent().expect("a file has a folder");
        for target in text(&path)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or("");
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !is_elsewhere && !file.is_empty() && !folder.join(file).exists() {
                findings.push(format!("{}: {target}", path.display()));
            }
        }
    }
    none(findings);
}
