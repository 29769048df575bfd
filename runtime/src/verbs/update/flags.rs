//! `update --memory 64M --cpu-quota 50000 …`: limits in flags.

use std::str::FromStr;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::arguments::UpdateArguments;
use crate::error::{Error, ErrorKind};

/// The resources that the flags stand for. A flag that was not given changes nothing.
///
/// # Errors
///
/// The flag whose value is none.
pub fn resources_of_flags(arguments: &UpdateArguments) -> Result<LinuxResources, Error> {
    let mut resources = LinuxResources::default();
    resources.set_memory(memory(arguments)?);
    resources.set_cpu(cpu(arguments)?);
    if let Some(limit) = arguments.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = arguments.blkio_weight.filter(|weight| *weight != 0) {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

fn memory(arguments: &UpdateArguments) -> Result<Option<LinuxMemory>, Error> {
    let limit = size("memory", &arguments.memory)?;
    let swap = size("memory-swap", &arguments.memory_swap)?;
    let reservation = size("memory-reservation", &arguments.memory_reservation)?;
    // Read, so that a mistake is told, and left aside as runc does: the kernel
    // has no such limits any more.
    size("kernel-memory", &arguments.kernel_memory)?;
    size("kernel-memory-tcp", &arguments.kernel_memory_tcp)?;
    if limit.or(swap).or(reservation).is_none() {
        return Ok(None);
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit);
    memory.set_swap(swap);
    memory.set_reservation(reservation);
    Ok(Some(memory))
}

fn cpu(arguments: &UpdateArguments) -> Result<Option<LinuxCpu>, Error> {
    let mut cpu = LinuxCpu::default();
    cpu.set_period(number("cpu-period", &arguments.cpu_period)?);
    cpu.set_quota(number("cpu-quota", &arguments.cpu_quota)?);
    cpu.set_burst(number("cpu-burst", &arguments.cpu_burst)?);
    cpu.set_shares(number("cpu-share", &arguments.cpu_share)?);
    cpu.set_realtime_period(number("cpu-rt-period", &arguments.cpu_rt_period)?);
    cpu.set_realtime_runtime(number("cpu-rt-runtime", &arguments.cpu_rt_runtime)?);
    cpu.set_idle(number("cpu-idle", &arguments.cpu_idle)?);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    cpu.set_cpus(given(&arguments.cpuset_cpus));
    cpu.set_mems(given(&arguments.cpuset_mems));
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn number<T: FromStr>(flag: &str, text: &Option<String>) -> Result<Option<T>, Error> {
    let text = text.as_deref().filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| invalid(flag, "a number", text)))
        .transpose()
}

fn size(flag: &str, text: &Option<String>) -> Result<Option<i64>, Error> {
    let text = text.as_deref().filter(|text| !text.is_empty());
    text.map(|text| {
        parse_size(text).ok_or_else(|| {
            invalid(
                flag,
                "bytes such as 1000, 64M or 1.5GiB, or -1 for no limit",
                text,
            )
        })
    })
    .transpose()
}

fn invalid(flag: &str, expected: &str, found: &str) -> Error {
    let text = format!("invalid value for {flag}: expected {expected}, found {found:?}");
    Error::new(ErrorKind::BadInput, text)
}

/// A number with a unit, which is a power of 1024: `64m`, `64MB`, `64 MiB`; or `-1`.
pub fn parse_size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    if !["", "b", "i", "ib"].contains(&&unit[usize::from(power > 0)..]) {
        return None;
    }
    let factor = 1_i64 << (10 * power);
    if let Ok(whole) = digits.parse::<i64>() {
        return whole.checked_mul(factor);
    }
    let bytes = digits.parse::<f64>().ok()? * factor as f64;
    // A conversion cuts off what does not fit, so the range is asked first.
    (bytes.is_finite() && bytes < i64::MAX as f64).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::{parse_size, resources_of_flags};
    use crate::arguments::{Arguments, Verb};
    use clap::Parser;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("-1", -1),
            ("64k", 64 << 10),
            ("64M", 64 << 20),
            ("64MB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "-2", "x", "1x", "64Mx", "1..5g", "99999999999P", "mb"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    fn resources(line: &str) -> Result<serde_json::Value, String> {
        let words = ["berth-oci", "update"].into_iter().chain(line.split(' '));
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Verb::Update(arguments) = arguments.verb else {
            return Err("another verb".to_owned());
        };
        let resources = resources_of_flags(&arguments).map_err(|error| error.to_string())?;
        serde_json::to_value(resources).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_fields() {
        let told = resources(
            "--memory 64M --memory-swap -1 --memory-reservation 32M --cpu-quota -1 --cpu-period 50000 \
             --cpu-share 512 --cpu-burst 1000 --cpu-idle 1 --cpu-rt-period 1 --cpu-rt-runtime 2 \
             --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit -1 --blkio-weight 100 --kernel-memory 1M c",
        )
        .expect("flags");
        assert_eq!(
            told,
            serde_json::json!({
                "memory": {"limit": 64 << 20, "swap": -1, "reservation": 32 << 20},
                "cpu": {"quota": -1, "period": 50000, "shares": 512, "burst": 1000, "idle": 1,
                        "realtimePeriod": 1, "realtimeRuntime": 2, "cpus": "0-1", "mems": "0"},
                "pids": {"limit": -1},
                "blockIO": {"weight": 100},
            })
        );
        assert_eq!(resources("c").expect("none"), serde_json::json!({}));
    }

    #[test]
    fn the_flag_is_named() {
        for flag in ["memory", "cpu-quota", "cpu-share", "kernel-memory"] {
            let error = resources(&format!("--{flag} lots c")).expect_err(flag);
            assert!(
                error.contains(&format!("invalid value for {flag}")),
                "{error}"
            );
        }
    }
}
