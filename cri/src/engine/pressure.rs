//! Pressure: how long tasks of a group waited for what they wanted.
//!
//! Version 2 has a file for each resource in every group (Linux 4.20; see the
//! kernel's `Documentation/accounting/psi.rst`). Version 1 has none, and a
//! kernel may be built or started without them.

use std::path::Path;

use berth_runtime::cgroup::plan::CgroupPlan;
use berth_runtime::cgroup::tree::CgroupVersion;

use crate::v1;

/// Waiting for one resource: of some tasks, and of all of them at once.
///
/// None where the kernel keeps no such account.
pub fn read(plan: &CgroupPlan, resource: &str) -> Option<v1::PsiStats> {
    let unified = plan
        .hierarchies
        .iter()
        .find(|hierarchy| hierarchy.version == CgroupVersion::V2)?;
    let file = format!("{resource}.pressure");
    read_file(&unified.directory().join(file))
}

fn read_file(path: &Path) -> Option<v1::PsiStats> {
    // EOPNOTSUPP: the machine was started with psi=0.
    parse(&std::fs::read_to_string(path).ok()?)
}

/// `some avg10=0.12 avg60=0.05 avg300=0.01 total=31337`, and the same for `full`.
fn parse(text: &str) -> Option<v1::PsiStats> {
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(parse_line)
    };
    Some(v1::PsiStats {
        some: Some(line("some ")?),
        // The machine's own cpu file has none before Linux 5.13.
        full: line("full "),
    })
}

fn parse_line(line: &str) -> v1::PsiData {
    let field = |name: &str| {
        line.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let average = |name| {
        field(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    };
    let total_us: u64 = field("total")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    v1::PsiData {
        total: total_us.saturating_mul(1000),
        avg10: average("avg10"),
        avg60: average("avg60"),
        avg300: average("avg300"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let read = parse(text).unwrap();
        let some = read.some.unwrap();
        assert_eq!((some.avg10, some.avg60, some.total), (1.5, 0.25, 12_000));
        assert_eq!(read.full.unwrap().total, 3_000);
        assert!(parse("").is_none());
    }
}
