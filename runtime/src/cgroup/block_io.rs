//! `linux.resources.blockIO`: weight and bandwidth of block devices.
//!
//! The controller is called `blkio` in version 1 and `io` in version 2. A
//! weight works only under the BFQ scheduler or `io.cost`, and the file's name
//! tells which of them the kernel has: hence the writes with a second name.
//! Bandwidth ceilings work under every scheduler.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::error::CgroupError;
use super::plan::{Draft, FileWrite, HierarchyPlan};
use super::tree::CgroupVersion;

const WEIGHT: &str = "linux.resources.blockIO.weight";
const LEAF_WEIGHT: &str = "linux.resources.blockIO.leafWeight";
const WEIGHT_DEVICE: &str = "linux.resources.blockIO.weightDevice";

/// One of the four ceilings: field, version 1 file, version 2 key.
type Throttle<'a> = (
    &'a Option<Vec<LinuxThrottleDevice>>,
    &'static str,
    &'static str,
    &'static str,
);

/// Adds the writes for block devices.
pub(crate) fn plan_block_io(io: &LinuxBlockIo, draft: &mut Draft) -> Result<(), CgroupError> {
    plan_weights(io, draft)?;
    let throttles: [Throttle; 4] = [
        (
            io.throttle_read_bps_device(),
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
        ),
        (
            io.throttle_write_bps_device(),
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            io.throttle_read_iops_device(),
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            io.throttle_write_iops_device(),
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ];
    for (devices, field, v1_file, v2_key) in throttles {
        for device in devices.iter().flatten() {
            let home = draft.home("blkio", field)?;
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            match home.version {
                CgroupVersion::V1 => {
                    home.write(v1_file, format!("{major}:{minor} {rate}"), field);
                }
                // Zero takes a ceiling away; version 2 spells that "max".
                CgroupVersion::V2 if rate == 0 => {
                    home.write("io.max", format!("{major}:{minor} {v2_key}=max"), field);
                }
                CgroupVersion::V2 => {
                    home.write("io.max", format!("{major}:{minor} {v2_key}={rate}"), field);
                }
            }
        }
    }
    Ok(())
}

fn plan_weights(io: &LinuxBlockIo, draft: &mut Draft) -> Result<(), CgroupError> {
    if let Some(weight) = asked(io.weight(), WEIGHT)? {
        let home = draft.home("blkio", WEIGHT)?;
        write_weight(home, None, weight, WEIGHT);
    }
    if let Some(weight) = asked(io.leaf_weight(), LEAF_WEIGHT)? {
        let home = draft.home("blkio", LEAF_WEIGHT)?;
        v1_only(home, LEAF_WEIGHT)?;
        home.write("blkio.leaf_weight", weight.to_string(), LEAF_WEIGHT);
    }
    for device in io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = asked(device.weight(), WEIGHT_DEVICE)? {
            let home = draft.home("blkio", WEIGHT_DEVICE)?;
            write_weight(home, Some(&number), weight, WEIGHT_DEVICE);
        }
        if let Some(weight) = asked(device.leaf_weight(), WEIGHT_DEVICE)? {
            let home = draft.home("blkio", WEIGHT_DEVICE)?;
            v1_only(home, WEIGHT_DEVICE)?;
            home.write(
                "blkio.leaf_weight_device",
                format!("{number} {weight}"),
                WEIGHT_DEVICE,
            );
        }
    }
    Ok(())
}

fn asked(weight: Option<u16>, field: &str) -> Result<Option<u16>, CgroupError> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(weight) => Err(CgroupError::invalid(
            field,
            format!("expected a weight of 10 to 1000, found {weight}"),
        )),
    }
}

fn v1_only(home: &HierarchyPlan, field: &str) -> Result<(), CgroupError> {
    match home.version {
        CgroupVersion::V1 => Ok(()),
        CgroupVersion::V2 => Err(CgroupError::invalid(
            field,
            "cgroup version 2 has no leaf weights, and this machine's io controller is version 2",
        )),
    }
}

/// The group's weight, or with a device number the weight on that device.
fn write_weight(home: &mut HierarchyPlan, device: Option<&str>, weight: u16, field: &'static str) {
    let with_device = |weight: u64| match device {
        Some(device) => format!("{device} {weight}"),
        None => weight.to_string(),
    };
    let raw = with_device(weight.into());
    let (first, second) = match (home.version, device) {
        (CgroupVersion::V1, None) => (
            FileWrite::new("blkio.weight", raw.clone(), field),
            FileWrite::new("blkio.bfq.weight", raw, field),
        ),
        (CgroupVersion::V1, Some(_)) => (
            FileWrite::new("blkio.weight_device", raw.clone(), field),
            FileWrite::new("blkio.bfq.weight_device", raw, field),
        ),
        (CgroupVersion::V2, _) => (
            FileWrite::new("io.bfq.weight", raw, field),
            FileWrite::new("io.weight", with_device(io_weight(weight)), field),
        ),
    };
    home.write_either(first, second);
}

/// From the specification's 10..1000 to version 2's 1..10000, as runc does.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9_999 / 990
}
