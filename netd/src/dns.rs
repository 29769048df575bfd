//! Names of services and pods, and who answers for them.
//!
//! Every node answers its own pods, from memory: the questions of a cluster are
//! many and the same, and a name server elsewhere would be one more thing to be
//! cut off from. The names follow the DNS-based service discovery of
//! Kubernetes, version 1.1.0:
//!
//! ```text
//!  web.shop.svc.cluster.local             A, AAAA   the service's addresses, or
//!                                                   its endpoints', if it has none
//!  _http._tcp.web.shop.svc.cluster.local  SRV       port and name, each endpoint's
//!                                                   for a service without addresses
//!  db-0.db.shop.svc.cluster.local         A, AAAA   the endpoint with this hostname
//!  10-210-1-5.shop.pod.cluster.local      A, AAAA   that address
//!  1.0.211.10.in-addr.arpa                PTR       the service's name
//!  web.shop.svc.cluster.local             CNAME     for a service of type ExternalName
//! ```
//!
//! All other names are the business of the host's resolvers.
//!
//! What is here is pure: names in, answers out. `dns/server.rs` speaks the
//! protocol and `dns/forward.rs` asks the host's resolvers.
//!
//! Read more: RFC 1035, RFC 2308 (negative answers), RFC 2782 (SRV). Try:
//! `nslookup web.shop.svc.cluster.local 10.211.0.10`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use crate::cluster::model::{Condition, Service, Slice};
use crate::request::Protocol;

/// How many seconds an answer may be kept.
pub const TTL: u32 = 5;

/// A snapshot of all names. A copy costs one reference count a service.
#[derive(Debug, Clone, Default)]
pub struct Names {
    domain: String,
    services: HashMap<String, Arc<Named>>,
    /// How many services a namespace has.
    namespaces: HashMap<String, usize>,
    reverse: HashMap<IpAddr, Arc<str>>,
    pod_ranges: Vec<IpNet>,
}

/// What a service's name stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    alias: Option<String>,
    addresses: Vec<IpAddr>,
    endpoints: Vec<NamedEndpoint>,
    ports: Vec<NamedPort>,
}

/// An endpoint of a service without addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedEndpoint {
    address: IpAddr,
    host: String,
    ports: Vec<NamedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedPort {
    name: String,
    protocol: Protocol,
    port: u16,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These. The second are for the target names of the first.
    Records(Vec<Data>, Vec<(String, IpAddr)>),
    /// Another name has the answer.
    Alias(String),
    /// The name exists, and has nothing of this type.
    NoData,
    /// There is no such name.
    NoName,
    /// Somebody else knows.
    NotOurs,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR.
    Name(String),
    /// SRV.
    Service(u16, String),
    /// TXT.
    Text(String),
}

impl Names {
    /// No names yet, of a domain.
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            ..Self::default()
        }
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Only addresses of these ranges have names of the kind `1-2-3-4`.
    pub fn set_pod_ranges(&mut self, ranges: Vec<IpNet>) {
        self.pod_ranges = ranges;
    }

    /// Puts what a service's name stands for in place of what it stood for.
    /// `key` is `NAMESPACE/NAME`.
    pub fn replace(&mut self, key: &str, named: Option<Named>) {
        let Some((namespace, service)) = key.split_once('/') else {
            return;
        };
        if let Some(before) = self.services.remove(key) {
            for address in before.all_addresses() {
                self.reverse.remove(&address);
            }
            if let Some(count) = self.namespaces.get_mut(namespace) {
                *count -= 1;
            }
            self.namespaces.retain(|_, count| *count > 0);
        }
        let Some(named) = named else { return };
        let name = format!("{service}.{namespace}.svc.{}", self.domain);
        for address in &named.addresses {
            self.reverse.insert(*address, Arc::from(name.as_str()));
        }
        for endpoint in &named.endpoints {
            let name = format!("{}.{name}", endpoint.host);
            self.reverse.insert(endpoint.address, Arc::from(name));
        }
        *self.namespaces.entry(namespace.to_owned()).or_default() += 1;
        self.services.insert(key.to_owned(), Arc::new(named));
    }

    /// Answers a question. The name is in lower case, without the final dot.
    pub fn find(&self, name: &str, kind: RecordType) -> Answer {
        if let Some(address) = address_of_reverse(name) {
            return match self.reverse.get(&address) {
                Some(target) => of_kind(
                    kind == RecordType::PTR,
                    vec![Data::Name(target.to_string())],
                ),
                None => Answer::NotOurs,
            };
        }
        let Some(inside) = name.strip_suffix(self.domain.as_str()) else {
            return Answer::NotOurs;
        };
        if inside.is_empty() {
            return Answer::NoData;
        }
        let Some(inside) = inside.strip_suffix('.') else {
            return Answer::NotOurs;
        };
        let mut labels: Vec<&str> = inside.split('.').collect();
        labels.reverse();
        match labels.as_slice() {
            ["dns-version"] => {
                let text = vec![Data::Text("1.1.0".to_owned())];
                of_kind(kind == RecordType::TXT, text)
            }
            ["svc" | "pod"] => Answer::NoData,
            ["svc" | "pod", namespace] => self.namespace(namespace),
            ["pod", namespace, address] => self.pod(namespace, address, kind),
            ["svc", namespace, service, rest @ ..] => {
                match self.services.get(&format!("{namespace}/{service}")) {
                    Some(named) => {
                        let name = format!("{service}.{namespace}.svc.{}", self.domain);
                        named.find(&name, rest, kind)
                    }
                    None => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }

    fn namespace(&self, namespace: &str) -> Answer {
        if self.namespaces.contains_key(namespace) {
            Answer::NoData
        } else {
            Answer::NoName
        }
    }

    fn pod(&self, namespace: &str, label: &str, kind: RecordType) -> Answer {
        let dotted = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let colons = || label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
        match dotted.or_else(|_| colons()) {
            Ok(address)
                if self.namespaces.contains_key(namespace)
                    && self.pod_ranges.iter().any(|range| range.contains(&address)) =>
            {
                addresses(&[address], kind)
            }
            _ => Answer::NoName,
        }
    }
}

impl Named {
    /// What a service's name stands for.
    pub fn new(service: &Service, slices: &[&Slice]) -> Self {
        let is_headless = service.cluster_ips.is_empty() && service.external_name.is_none();
        let ports = service.ports.iter().map(|port| NamedPort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
        });
        Self {
            alias: service
                .external_name
                .as_ref()
                .map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
            addresses: service.cluster_ips.clone(),
            endpoints: if is_headless {
                named_endpoints(slices)
            } else {
                Vec::new()
            },
            ports: ports.collect(),
        }
    }

    fn all_addresses(&self) -> Vec<IpAddr> {
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.address);
        self.addresses.iter().copied().chain(endpoints).collect()
    }

    /// `rest` are the labels before the service's name, from right to left.
    fn find(&self, name: &str, rest: &[&str], kind: RecordType) -> Answer {
        match rest {
            [] => match &self.alias {
                Some(alias) => Answer::Alias(alias.clone()),
                None => addresses(&self.all_addresses(), kind),
            },
            [host] if !host.starts_with('_') => {
                let of_host: Vec<IpAddr> = self
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.host == *host)
                    .map(|endpoint| endpoint.address)
                    .collect();
                if of_host.is_empty() {
                    return Answer::NoName;
                }
                addresses(&of_host, kind)
            }
            [protocol] if self.ports.iter().any(|p| label(p.protocol) == *protocol) => {
                Answer::NoData
            }
            [protocol, port] => self.port(name, protocol, port, kind),
            _ => Answer::NoName,
        }
    }

    fn port(&self, name: &str, protocol: &str, port: &str, kind: RecordType) -> Answer {
        let is_meant = |p: &&NamedPort| {
            label(p.protocol) == protocol && port.strip_prefix('_') == Some(&p.name)
        };
        let mut records = Vec::new();
        let mut extra = Vec::new();
        if let Some(found) = self.ports.iter().find(is_meant)
            && !self.addresses.is_empty()
        {
            records.push(Data::Service(found.port, name.to_owned()));
            extra.extend(self.addresses.iter().map(|a| (name.to_owned(), *a)));
        }
        for endpoint in &self.endpoints {
            if let Some(found) = endpoint.ports.iter().find(is_meant) {
                let target = format!("{}.{name}", endpoint.host);
                records.push(Data::Service(found.port, target.clone()));
                extra.push((target, endpoint.address));
            }
        }
        match (records.is_empty(), kind == RecordType::SRV) {
            (true, _) => Answer::NoName,
            (false, true) => Answer::Records(records, extra),
            (false, false) => Answer::NoData,
        }
    }
}

fn named_endpoints(slices: &[&Slice]) -> Vec<NamedEndpoint> {
    let mut endpoints = Vec::new();
    for slice in slices {
        let ports: Vec<NamedPort> = slice
            .ports
            .iter()
            .map(|port| NamedPort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
            })
            .collect();
        let ready = slice.endpoints.iter();
        for endpoint in ready.filter(|endpoint| endpoint.condition == Condition::Ready) {
            let host = endpoint.hostname.as_deref().map(str::to_ascii_lowercase);
            endpoints.push(NamedEndpoint {
                address: endpoint.address,
                host: host.unwrap_or_else(|| dashed(endpoint.address)),
                ports: ports.clone(),
            });
        }
    }
    endpoints
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

fn addresses(all: &[IpAddr], kind: RecordType) -> Answer {
    let wanted = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let records: Vec<Data> = all
        .iter()
        .filter(wanted)
        .map(|address| Data::Address(*address))
        .collect();
    of_kind(!records.is_empty(), records)
}

fn of_kind(is_wanted: bool, records: Vec<Data>) -> Answer {
    if is_wanted {
        Answer::Records(records, Vec::new())
    } else {
        Answer::NoData
    }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is of.
fn address_of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = digits.split('.').collect();
        parts.reverse();
        return parts.join(".").parse().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if nibbles.len() != 32 {
        return None;
    }
    let mut address = 0u128;
    for nibble in nibbles.iter().rev() {
        let digit = u128::from_str_radix(nibble, 16)
            .ok()
            .filter(|_| nibble.len() == 1)?;
        address = address << 4 | digit;
    }
    Some(IpAddr::V6(Ipv6Addr::from(address)))
}

/// The host's resolvers.
mod forward;
/// The server.
pub(crate) mod server;

#[cfg(test)]
mod tests;
