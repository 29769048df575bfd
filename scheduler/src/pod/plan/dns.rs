//! Names: the pod's hostname, its resolver and its hosts file.
//!
//! Read more: resolv.conf(5), hosts(5), "DNS for Services and Pods" in the
//! Kubernetes documentation.

use std::net::IpAddr;

use berth_cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::pod::settings::{ClusterDns, WorkerConfig};

/// The kernel's limit of a hostname, without its final zero.
const HOSTNAME_MAX: usize = 63;

/// The pod's hostname, and its full name where it has a subdomain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHostname {
    /// What the kernel's UTS namespace holds.
    pub hostname: String,
    /// The name with its domain, for the hosts file.
    pub full: Option<String>,
}

/// The names of a pod; a pod in the machine's network has the machine's.
pub fn plan_hostname(pod: &Pod, spec: &PodSpec, config: &WorkerConfig) -> PodHostname {
    if let Some(name) = &spec.hostname_override {
        return PodHostname {
            hostname: name.clone(),
            full: None,
        };
    }
    if spec.host_network == Some(true) {
        return PodHostname {
            hostname: config.node.name.clone(),
            full: None,
        };
    }
    let name = spec.hostname.as_deref().or(pod.metadata.name.as_deref());
    let mut hostname: String = name
        .unwrap_or_default()
        .chars()
        .take(HOSTNAME_MAX)
        .collect();
    // A cut may leave a hyphen or a dot, which must not end a name (RFC 1123).
    hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = &config.dns.domain;
    let full = spec
        .subdomain
        .as_ref()
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"));
    match full {
        Some(full) if spec.set_hostname_as_fqdn == Some(true) => PodHostname {
            hostname: full.clone(),
            full: Some(full),
        },
        full => PodHostname { hostname, full },
    }
}

/// The resolver of a pod: by its policy the cluster's, the machine's or none, then
/// `dnsConfig`.
///
/// `ClusterFirst` is the machine's where no cluster's DNS is there to come first, and
/// for pods in the machine's network, which would lose the machine's names.
pub fn plan_dns(
    pod: &Pod,
    spec: &PodSpec,
    host: &v1::DnsConfig,
    cluster: &ClusterDns,
) -> v1::DnsConfig {
    let of_cluster = match spec.dns_policy.as_deref() {
        Some("ClusterFirstWithHostNet") => true,
        Some("ClusterFirst") | None => spec.host_network != Some(true),
        _ => false,
    };
    let mut dns = match spec.dns_policy.as_deref() {
        Some("None") => v1::DnsConfig::default(),
        _ if of_cluster && !cluster.servers.is_empty() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            plan_cluster_dns(namespace, host, cluster)
        }
        _ => host.clone(),
    };
    let Some(own) = &spec.dns_config else {
        return dns;
    };
    let append = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
        for entry in more.iter().flatten() {
            if !list.contains(entry) {
                list.push(entry.clone());
            }
        }
    };
    append(&mut dns.servers, &own.nameservers);
    append(&mut dns.searches, &own.searches);
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        // An option of the pod replaces the machine's of the same name.
        dns.options
            .retain(|known| known.split(':').next() != Some(name));
        dns.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    dns
}

/// The cluster's resolver: short names are tried as services of the namespace, of the
/// cluster, and then as the machine would.
fn plan_cluster_dns(namespace: &str, host: &v1::DnsConfig, cluster: &ClusterDns) -> v1::DnsConfig {
    let domain = &cluster.domain;
    let own = [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    v1::DnsConfig {
        servers: cluster.servers.iter().map(ToString::to_string).collect(),
        searches: own.into_iter().chain(host.searches.clone()).collect(),
        // A name with fewer dots is tried with the search list first (resolv.conf(5)):
        // `web.shop.svc` has two.
        options: vec!["ndots:5".to_owned()],
    }
}

/// Reads a resolver's configuration; what it does not know it leaves out.
pub fn read_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // The last line of its kind counts.
            Some("search" | "domain") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// The pod's hosts file.
pub fn plan_hosts(spec: &PodSpec, names: &PodHostname, addresses: &[IpAddr]) -> String {
    let mut lines = vec![
        "127.0.0.1\tlocalhost".to_owned(),
        "::1\tlocalhost ip6-localhost ip6-loopback".to_owned(),
        "fe00::0\tip6-localnet".to_owned(),
        "ff02::1\tip6-allnodes".to_owned(),
        "ff02::2\tip6-allrouters".to_owned(),
    ];
    for address in addresses {
        lines.push(match &names.full {
            Some(full) if *full != names.hostname => {
                format!("{address}\t{full}\t{}", names.hostname)
            }
            _ => format!("{address}\t{}", names.hostname),
        });
    }
    for alias in spec.host_aliases.iter().flatten() {
        let hostnames = alias.hostnames.clone().unwrap_or_default().join("\t");
        lines.push(format!("{}\t{hostnames}", alias.ip));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{plan_dns, plan_hostname, plan_hosts, read_resolv_conf};
    use crate::pod::settings::{ClusterDns, WorkerConfig};
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use serde_json::{Value, json};

    fn config() -> WorkerConfig {
        let mut config = WorkerConfig::new("/nowhere".into(), "/nowhere".into());
        config.node.name = "node".to_owned();
        config
    }

    fn pod(spec: Value) -> (Pod, PodSpec) {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap();
        let spec = pod.spec.clone().unwrap();
        (pod, spec)
    }

    #[test]
    fn a_hostname_is_the_pods_name_unless_told() {
        let long = "a".repeat(62) + "-b";
        let table = [
            (json!({"containers": []}), "web", None),
            (
                json!({"containers": [], "hostname": "h", "subdomain": "s"}),
                "h",
                Some("h.s.shop.svc.cluster.local"),
            ),
            (
                json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}),
                "web.s.shop.svc.cluster.local",
                Some("web.s.shop.svc.cluster.local"),
            ),
            (json!({"containers": [], "hostNetwork": true}), "node", None),
            (
                json!({"containers": [], "hostnameOverride": "o", "hostNetwork": true}),
                "o",
                None,
            ),
            (
                json!({"containers": [], "hostname": long}),
                &"a".repeat(62),
                None,
            ),
        ];
        for (fields, hostname, full) in table {
            let (pod, spec) = pod(fields);
            let names = plan_hostname(&pod, &spec, &config());
            assert_eq!(
                (names.hostname.as_str(), names.full.as_deref()),
                (hostname, full)
            );
        }
    }

    #[test]
    fn the_pods_resolver_adds_to_the_machines() {
        let host = read_resolv_conf(
            "# a comment\nnameserver 10.0.0.1\nsearch old\nsearch a b\noptions ndots:1 edns0\n",
        );
        let own = json!({"nameservers": ["10.0.0.1", "10.0.0.2"], "searches": ["c"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "rotate"}]});
        let none = ClusterDns::default();
        let (given, spec) =
            pod(json!({"containers": [], "dnsPolicy": "ClusterFirst", "dnsConfig": own}));
        let dns = plan_dns(&given, &spec, &host, &none);
        assert_eq!(dns.servers, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(dns.searches, ["a", "b", "c"]);
        assert_eq!(dns.options, ["edns0", "ndots:5", "rotate"]);
        let (given, spec) = pod(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}}),
        );
        let dns = plan_dns(&given, &spec, &host, &none);
        assert_eq!((dns.servers.len(), dns.searches.len()), (1, 0));
    }

    #[test]
    fn the_clusters_resolver_comes_first_where_there_is_one() {
        let host = read_resolv_conf("nameserver 10.0.0.1\nsearch lan\noptions ndots:1\n");
        let cluster = ClusterDns {
            servers: vec!["10.211.0.10".parse().unwrap()],
            ..ClusterDns::default()
        };
        let servers = |fields: Value| {
            let (given, spec) = pod(fields);
            plan_dns(&given, &spec, &host, &cluster).servers.join(",")
        };
        let table = [
            (json!({"containers": []}), "10.211.0.10"),
            (json!({"containers": [], "hostNetwork": true}), "10.0.0.1"),
            (
                json!({"containers": [], "hostNetwork": true,
                    "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.211.0.10",
            ),
            (
                json!({"containers": [], "dnsPolicy": "Default"}),
                "10.0.0.1",
            ),
        ];
        for (fields, expected) in table {
            assert_eq!(servers(fields.clone()), expected, "{fields}");
        }
        let (given, spec) = pod(json!({"containers": []}));
        let dns = plan_dns(&given, &spec, &host, &cluster);
        let searches = [
            "shop.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "lan",
        ];
        assert_eq!(dns.searches, searches);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let (pod, spec) = pod(json!({"containers": [], "subdomain": "s",
            "hostAliases": [{"ip": "10.1.1.1", "hostnames": ["db", "cache"]}]}));
        let names = plan_hostname(&pod, &spec, &config());
        let hosts = plan_hosts(&spec, &names, &["10.88.0.2".parse().unwrap()]);
        assert!(hosts.contains("10.88.0.2\tweb.s.shop.svc.cluster.local\tweb\n"));
        assert!(hosts.contains("10.1.1.1\tdb\tcache\n"));
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"));
    }
}
