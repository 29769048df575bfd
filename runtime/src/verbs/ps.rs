//! `ps`: the processes of a container.

use std::process::Command;

use super::find;
use crate::arguments::{Global, ListFormat, PsArguments};
use crate::error::{Error, ErrorKind};

/// Prints their numbers, or those lines of ps(1) that are about them.
///
/// # Errors
///
/// When they cannot be counted (no cgroups), or ps(1) is missing.
pub fn ps(global: &Global, arguments: &PsArguments) -> Result<i32, Error> {
    let found = find(global, &arguments.id)?;
    let cgroup = found.record.cgroup.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::WrongState,
            "ps: the container has no cgroup to count them by",
        )
    })?;
    let pids = cgroup.pids()?;
    if arguments.format == ListFormat::Json {
        let numbers: Vec<String> = pids.iter().map(ToString::to_string).collect();
        println!("[{}]", numbers.join(","));
        return Ok(0);
    }
    let words = if arguments.arguments.is_empty() {
        vec!["-ef".to_owned()]
    } else {
        arguments.arguments.clone()
    };
    let output = Command::new("ps").args(&words).output();
    let output = output.map_err(|error| Error::new(ErrorKind::Failed, format!("ps: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let text = format!("ps {}: {}: {}", words.join(" "), output.status, said.trim());
        return Err(Error::new(ErrorKind::Failed, text));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or("");
    let column = header.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| {
        Error::new(
            ErrorKind::BadInput,
            "ps: expected arguments that give a PID column",
        )
    })?;
    println!("{header}");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}
