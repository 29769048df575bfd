//! Files that all containers of a pod share: hosts, hostname, resolv.conf.
//!
//! They are bind-mounted into every container. The text is planned by pure
//! functions; [`write_pod_files`] observes the host's own files and writes.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use berth_netd::request::PodNetwork;
use berth_runtime::plan::mappings::{Mappings, outside_of};
use rustix::mount::MountFlags;

use super::error::{Error, ErrorKind};
use super::mount_table;
use super::records::files::{ensure_directory, storage};
use super::spec::mounts::PodFiles;
use crate::v1;

/// As every engine gives; a volume with `medium: Memory` serves for more.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";
const HOST_HOSTS: &str = "/etc/hosts";
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the servers that its own stub asks.
const RESOLVED_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// Who owns a pod's files, as the host sees it: root, or the pod's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// Root of a user namespace with these ids; without them the host's.
    pub fn of(ids: Option<&Mappings>) -> Owner {
        let root = |ranges| outside_of(ranges, 0).unwrap_or(0);
        Owner {
            uid: ids.map_or(0, |ids| root(&ids.uids)),
            gid: ids.map_or(0, |ids| root(&ids.gids)),
        }
    }
}

/// Mounts the pod's tmpfs for `/dev/shm`.
///
/// # Errors
///
/// `Storage`.
pub fn mount_shared_memory(target: &Path, owner: Owner) -> Result<(), Error> {
    ensure_directory(target)?;
    // A second tmpfs over the first would hide what programs left there.
    if !mount_table::observe_below(target)?.is_empty() {
        return Ok(());
    }
    let Owner { uid, gid } = owner;
    let options = format!("{SHM_OPTIONS},uid={uid},gid={gid}");
    rustix::mount::mount(
        "shm",
        target,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(CString::new(options).unwrap_or_default().as_c_str()),
    )
    .map_err(|errno| {
        Error::caused(
            ErrorKind::Storage,
            format!("mount a tmpfs at {}", target.display()),
            errno,
        )
    })
}

/// Writes the three files of a pod.
///
/// # Errors
///
/// `Invalid` for the DNS configuration, `Storage`.
pub fn write_pod_files(
    files: &PodFiles,
    config: &v1::PodSandboxConfig,
    hostname: &str,
    network: Option<&PodNetwork>,
) -> Result<(), Error> {
    let hosts = match network {
        Some(network) => plan_hosts(hostname, network),
        // On the host's network the host's own names hold.
        None => fs::read_to_string(HOST_HOSTS).unwrap_or_default(),
    };
    let resolver = match &config.dns_config {
        Some(dns) if *dns != v1::DnsConfig::default() => plan_resolv_conf(dns)?,
        _ => observe_resolv_conf(network.is_some()),
    };
    write(&files.hosts, &hosts)?;
    write(&files.hostname, &format!("{hostname}\n"))?;
    write(&files.resolv_conf, &resolver)
}

/// Makes the three files the pod's own, for its root to write to as in any pod.
/// Nobody has seen them yet, so no link can stand in their place.
///
/// # Errors
///
/// `Storage`.
pub fn give_pod_files(files: &PodFiles, owner: Owner) -> Result<(), Error> {
    if owner == Owner::of(None) {
        return Ok(());
    }
    for path in [&files.hosts, &files.hostname, &files.resolv_conf] {
        std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
            .map_err(|error| storage("change the owner of", path, error))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error| storage("write", path, error))
}

/// `hosts(5)`: the loopback's names, then the pod's own.
fn plan_hosts(hostname: &str, network: &PodNetwork) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname {
        hostname.to_owned()
    } else {
        format!("{hostname} {short}")
    };
    for address in &network.addresses {
        text.push_str(&format!("{}\t{names}\n", address.addr()));
    }
    text
}

/// `resolv.conf(5)` from the request.
fn plan_resolv_conf(dns: &v1::DnsConfig) -> Result<String, Error> {
    let mut text = String::new();
    let words = |field: &str, list: &[String]| -> Result<(), Error> {
        match list
            .iter()
            .find(|word| word.is_empty() || word.contains(char::is_whitespace))
        {
            Some(word) => Err(Error::invalid(format!(
                "config.dns_config.{field}: {word:?} is not one word"
            ))),
            None => Ok(()),
        }
    };
    words("searches", &dns.searches)?;
    words("options", &dns.options)?;
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        // A zone, as in fe80::1%eth0, is the resolver's to read.
        let address = server.split('%').next().unwrap_or(server);
        address.parse::<std::net::IpAddr>().map_err(|error| {
            Error::caused(
                ErrorKind::Invalid,
                format!("config.dns_config.servers: {server:?}"),
                error,
            )
        })?;
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

/// The host's resolver, or the servers behind its stub.
fn observe_resolv_conf(own_network: bool) -> String {
    let text = fs::read_to_string(HOST_RESOLV_CONF).unwrap_or_default();
    if own_network && asks_loopback_only(&text) {
        // 127.0.0.53 is the pod's own loopback, where nobody answers.
        if let Ok(behind) = fs::read_to_string(RESOLVED_RESOLV_CONF) {
            return behind;
        }
        tracing::warn!(
            "{HOST_RESOLV_CONF} names only servers on the loopback, which pods cannot reach"
        );
    }
    text
}

fn asks_loopback_only(text: &str) -> bool {
    let mut servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<std::net::IpAddr>().ok())
        .peekable();
    servers.peek().is_some() && servers.all(|server| server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_its_own_name() {
        let network = PodNetwork {
            pod_id: "p".to_owned(),
            interface: "eth0".to_owned(),
            mac: String::new(),
            addresses: vec![
                "10.1.2.3/20".parse().unwrap(),
                "fd00::3/64".parse().unwrap(),
            ],
            gateways: Vec::new(),
            mtu: 1500,
            host_ports: Vec::new(),
            notes: Vec::new(),
        };
        let text = plan_hosts("web.example", &network);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.1.2.3\tweb.example web\n"));
        assert!(text.ends_with("fd00::3\tweb.example web\n"));
    }

    #[test]
    fn the_resolver_is_written_from_the_request() {
        let dns = v1::DnsConfig {
            servers: vec!["10.0.0.10".to_owned(), "fe80::1%eth0".to_owned()],
            searches: vec!["default.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        assert_eq!(
            plan_resolv_conf(&dns).unwrap(),
            "search default.svc svc\nnameserver 10.0.0.10\nnameserver fe80::1%eth0\n\
             options ndots:5\n"
        );
        let wrong = v1::DnsConfig {
            servers: vec!["dns.example".to_owned()],
            ..Default::default()
        };
        assert!(plan_resolv_conf(&wrong).is_err());
        let injected = v1::DnsConfig {
            searches: vec!["a\nnameserver 6.6.6.6".to_owned()],
            ..Default::default()
        };
        assert!(plan_resolv_conf(&injected).is_err());
    }

    #[test]
    fn a_stub_on_the_loopback_is_recognised() {
        assert!(asks_loopback_only("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!asks_loopback_only(
            "nameserver 127.0.0.53\nnameserver 9.9.9.9\n"
        ));
        assert!(!asks_loopback_only("search example\n"));
    }
}
