//! critest of cri-tools: which programs are here, and what its report says.

use anyhow::{Context, Result};
use serde_json::Value;

/// What became of the specs.
#[derive(Debug, Default)]
pub struct Judged {
    /// How many passed.
    pub passed: usize,
    /// How many had nothing to say on this machine.
    pub skipped: usize,
    /// The names of the others.
    pub failed: Vec<String>,
}

/// Counts what ginkgo's report tells (`types.Report` in its documentation).
///
/// # Errors
///
/// It is no such report.
pub fn judge(report: &Value) -> Result<Judged> {
    let specs = report[0]["SpecReports"].as_array().context("SpecReports")?;
    let mut judged = Judged::default();
    for spec in specs.iter().filter(|spec| spec["LeafNodeType"] == "It") {
        let name = spec["LeafNodeText"].as_str().context("LeafNodeText")?;
        match spec["State"].as_str().context("State")? {
            "passed" => judged.passed += 1,
            "skipped" | "pending" => judged.skipped += 1,
            _ => judged.failed.push(name.to_owned()),
        }
    }
    Ok(judged)
}

/// A program of others that a variable names; without one the reader is told.
pub fn named(variable: &str) -> Option<String> {
    let program = std::env::var(variable).ok().filter(|name| !name.is_empty());
    if program.is_none() {
        println!("NOT RUN: {variable} names no program");
        eprintln!("NOT RUN: {variable} names no program");
    }
    program
}
