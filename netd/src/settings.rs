//! Kernel settings under `/proc/sys/net`: what is wanted, and writing it.
//!
//! These files show the network namespace of whoever looks, so the same path
//! means the host here and the pod on a thread that has entered it. A value
//! that is right already is not written: in a container `/proc/sys` is often
//! read-only and yet as it should be.
//!
//! The forwarding settings stay when the last pod leaves. Others may have come
//! to rely on them, and nobody could tell.
//!
//! Read more: the kernel's `Documentation/networking/ip-sysctl.rst`.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind};
use crate::links::Ipv6;

const ROOT: &str = "/proc/sys/net";

/// One file and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Below `/proc/sys/net`.
    pub path: String,
    /// What it should hold.
    pub value: &'static str,
}

/// What the host needs to forward between pods and the world, and to let
/// 127.0.0.1 reach host ports. Needs the bridge.
///
/// `router_listeners` are the interfaces that learn IPv6 routes from routers.
pub fn plan_host_settings(bridge: &str, ipv6: Ipv6, router_listeners: &[String]) -> Vec<Setting> {
    let mut settings = vec![
        setting("ipv4/ip_forward".to_owned(), "1"),
        // Without it the kernel calls a packet from 127.0.0.1 on this interface
        // a martian. The chain `guard` shuts the door that this opens.
        setting(format!("ipv4/conf/{bridge}/route_localnet"), "1"),
    ];
    if ipv6 == Ipv6::Present {
        // A machine that forwards stops listening to routers, and would lose its
        // own default route with the next expiry; 2 means "listen all the same".
        settings.extend(
            router_listeners
                .iter()
                .map(|interface| setting(format!("ipv6/conf/{interface}/accept_ra"), "2")),
        );
        settings.push(setting(format!("ipv6/conf/{bridge}/disable_ipv6"), "0"));
        // Pods are no routers for the host (CVE-2020-13401).
        settings.push(setting(format!("ipv6/conf/{bridge}/accept_ra"), "0"));
        // IPAM knows that an address is unique. With duplicate address detection
        // the bridge would not answer, nor ask for pods, for more than a second.
        settings.push(setting(format!("ipv6/conf/{bridge}/accept_dad"), "0"));
        settings.push(setting("ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    settings
}

/// What a pod's namespace needs before its interface is made, which then
/// inherits `default`.
pub fn plan_pod_settings(ipv6: Ipv6) -> Vec<Setting> {
    if ipv6 == Ipv6::Absent {
        return Vec::new();
    }
    let mut settings = vec![
        setting("ipv6/conf/all/disable_ipv6".to_owned(), "0"),
        setting("ipv6/conf/default/disable_ipv6".to_owned(), "0"),
        setting("ipv6/conf/all/accept_dad".to_owned(), "0"),
    ];
    // Another pod on the bridge could announce itself as everyone's router
    // (CVE-2020-10749), and an address is known to be unique without asking.
    for name in ["accept_ra", "accept_dad"] {
        settings.push(setting(format!("ipv6/conf/default/{name}"), "0"));
    }
    settings
}

/// Names the interfaces that learn IPv6 routes from routers only while the
/// machine does not forward.
pub fn observe_router_listeners() -> Vec<String> {
    let conf = PathBuf::from(ROOT).join("ipv6/conf");
    let Ok(entries) = fs::read_dir(&conf) else {
        return Vec::new();
    };
    let reads = |path: PathBuf, value: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    if !reads(conf.join("all/forwarding"), "0") {
        return Vec::new();
    }
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| reads(entry.path().join("accept_ra"), "1"))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "all" && name != "lo")
        .collect();
    names.sort();
    names
}

/// Writes settings in order, each only if it differs.
///
/// # Errors
///
/// `Unsupported`, with the path and the value.
pub fn apply(settings: &[Setting]) -> Result<(), Error> {
    settings.iter().try_for_each(|setting| {
        let path = PathBuf::from(ROOT).join(&setting.path);
        let result = fs::read_to_string(&path).and_then(|text| {
            if text.trim() == setting.value {
                return Ok(());
            }
            fs::write(&path, setting.value)
        });
        result.map_err(|error: io::Error| {
            Error::caused(
                ErrorKind::Unsupported,
                format!("set {} to {}", path.display(), setting.value),
                error,
            )
        })
    })
}

pub(crate) fn setting(path: String, value: &'static str) -> Setting {
    Setting { path, value }
}

/// In the words of sysctl(8).
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sysctl -w net/{}={}", self.path, self.value)
    }
}

#[cfg(test)]
mod tests;
