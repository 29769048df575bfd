//! The door to nftables: a small trait of ours, and its implementation over netlink.
//!
//! nf_tables takes *batches*: every message between a begin and an end marker
//! is applied at once or not at all, so a packet sees either the old table or
//! the new one. The library behind the trait moves its interface every few
//! weeks; nothing of it shows outside this file and its folder.

use std::net::IpAddr;

use async_trait::async_trait;
use nlink::netlink::nftables::{Chain as NlChain, Family, Rule as NlRule, Set, SetElement};
use nlink::netlink::nftables::{ChainInfo, SetDataType, SetKeyType, Transaction};
use nlink::netlink::{Connection, Nftables};

use crate::error::{Error, ErrorKind};
use crate::rules::{IpFamily, PortElement, PortKey, PortMap, Ruleset};

/// What netd asks of nftables.
#[async_trait]
pub trait Nft: Send + Sync {
    /// Whether the table stands as planned. Changes nothing.
    async fn observe_table(&self, wanted: &Ruleset) -> Result<ObservedTable, Error>;
    /// Puts the table in place of whatever has its name, with these elements, at once.
    async fn replace_table(&self, wanted: &Ruleset, elements: &[PortElement]) -> Result<(), Error>;
    /// Adds elements to a table's maps, all or none.
    async fn add_elements(&self, table: &str, elements: &[PortElement]) -> Result<(), Error>;
    /// Removes elements; succeeds if they, or the table, are gone.
    async fn remove_elements(&self, table: &str, elements: &[PortElement]) -> Result<(), Error>;
    /// Removes a table; succeeds if it is gone.
    async fn remove_table(&self, table: &str) -> Result<(), Error>;
    /// Names the chains of others that drop forwarded packets by policy.
    async fn observe_forward_drops(&self) -> Result<Vec<String>, Error>;
}

/// How a table was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedTable {
    /// No table of that name.
    Absent,
    /// A table of that name with another layout, or with rules removed by someone.
    Differs,
    /// As planned.
    Stands,
}

/// nftables over a netlink socket of this thread's network namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelNft;

/// One message holds at most 64 KiB of nested elements.
const ELEMENTS_A_MESSAGE: usize = 500;

#[async_trait]
impl Nft for KernelNft {
    async fn observe_table(&self, wanted: &Ruleset) -> Result<ObservedTable, Error> {
        let connection = open()?;
        let tables = connection
            .list_tables_in(Family::Inet)
            .await
            .map_err(|error| kernel("NFT_MSG_GETTABLE(inet)", error))?;
        let Some(table) = tables.iter().find(|table| table.name == wanted.table) else {
            return Ok(ObservedTable::Absent);
        };
        let rules = connection
            .list_rules(&wanted.table, Family::Inet)
            .await
            .map_err(|error| kernel(format!("NFT_MSG_GETRULE(inet {})", wanted.table), error))?;
        let rule_count = rules
            .iter()
            .filter(|rule| rule.table == wanted.table)
            .count();
        // The comment carries the layout's version and the rule count shows a
        // flush by hand. `use` counts chains and maps.
        let parts = wanted.chains.len() + wanted.maps.len();
        let stands = table.comment.as_deref() == Some(wanted.comment.as_str())
            && rule_count == wanted.rule_count()
            && usize::try_from(table.use_count).is_ok_and(|count| count == parts);
        Ok(if stands {
            ObservedTable::Stands
        } else {
            ObservedTable::Differs
        })
    }

    async fn replace_table(&self, wanted: &Ruleset, elements: &[PortElement]) -> Result<(), Error> {
        let connection = open()?;
        let name = wanted.table.as_str();
        let exists = connection
            .list_tables_in(Family::Inet)
            .await
            .map_err(|error| kernel("NFT_MSG_GETTABLE(inet)", error))?
            .iter()
            .any(|table| table.name == name);
        let mut batch = connection.transaction();
        if exists {
            batch = batch.del_table(name, Family::Inet);
        }
        let batch = lower_table(batch, wanted, elements)?;
        batch
            .commit(&connection)
            .await
            .map_err(|error| kernel(format!("load table inet {name}"), error))
    }

    async fn add_elements(&self, table: &str, elements: &[PortElement]) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        let connection = open()?;
        let batch = lower_elements(connection.transaction(), table, elements);
        batch
            .commit(&connection)
            .await
            .map_err(|error| kernel(format!("NFT_MSG_NEWSETELEM(inet {table})"), error))
    }

    async fn remove_elements(&self, table: &str, elements: &[PortElement]) -> Result<(), Error> {
        let connection = open()?;
        for element in elements {
            // One by one: in a batch, one that is gone would keep the others.
            match connection
                .del_set_elements(&lower_map(table, element.map), &[lower_element(element)])
                .await
            {
                Err(error) if !error.is_not_found() => {
                    return Err(kernel(
                        format!("NFT_MSG_DELSETELEM(inet {table}, {element})"),
                        error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn remove_table(&self, table: &str) -> Result<(), Error> {
        open()?
            .del_table_if_exists(table, Family::Inet)
            .await
            .map(drop)
            .map_err(|error| kernel(format!("NFT_MSG_DELTABLE(inet {table})"), error))
    }

    async fn observe_forward_drops(&self) -> Result<Vec<String>, Error> {
        let chains = open()?
            .list_chains()
            .await
            .map_err(|error| kernel("NFT_MSG_GETCHAIN", error))?;
        Ok(chains
            .iter()
            .filter(|chain| drops_forwarded(chain))
            .map(describe_chain)
            .collect())
    }
}

/// `NF_INET_FORWARD` and `NF_DROP` of `linux/netfilter.h`.
fn drops_forwarded(chain: &ChainInfo) -> bool {
    let routed = matches!(chain.family, Family::Inet | Family::Ip | Family::Ip6);
    routed && chain.hook == Some(2) && chain.policy == Some(0)
}

fn describe_chain(chain: &ChainInfo) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}

/// A socket costs some microseconds, so none is kept: a kept one would be of
/// the namespace in which it was opened, and of no use after a fork.
fn open() -> Result<Connection<Nftables>, Error> {
    Connection::<Nftables>::new()
        .map_err(|error| kernel("socket(AF_NETLINK, NETLINK_NETFILTER)", error))
}

/// The call as strace would print it, and what the kernel answered.
fn kernel(call: impl Into<String>, error: nlink::Error) -> Error {
    let kind = match error.errno() {
        Some(errno) if errno == nix::Error::EPERM as i32 => ErrorKind::Unsupported,
        _ => ErrorKind::Kernel,
    };
    Error::caused(kind, call.into(), error)
}

/// Maps first, then chains, then rules: each names only what stands already.
fn lower_table(
    batch: Transaction,
    wanted: &Ruleset,
    elements: &[PortElement],
) -> Result<Transaction, Error> {
    let name = wanted.table.as_str();
    let mut batch = batch.add_table_with_comment(name, Family::Inet, 0, Some(&wanted.comment));
    for map in &wanted.maps {
        batch = batch.add_set(lower_map(name, *map));
    }
    for chain in &wanted.chains {
        let built = NlChain::new(name, chain.name)
            .map_err(|error| kernel(format!("chain {}", chain.name), error))?
            .family(Family::Inet);
        batch = batch.add_chain(match chain.hook {
            Some(hook) => built.base(lower::base_chain(hook)),
            None => built,
        });
    }
    for chain in &wanted.chains {
        for rule in &chain.rules {
            let built = NlRule::new(name, chain.name).family(Family::Inet);
            batch = batch.add_rule(lower::rule(built, rule)?);
        }
    }
    Ok(lower_elements(batch, name, elements))
}

fn lower_elements(mut batch: Transaction, table: &str, elements: &[PortElement]) -> Transaction {
    for map in PortMap::ALL {
        let of_map: Vec<SetElement> = elements
            .iter()
            .filter(|element| element.map == map)
            .map(lower_element)
            .collect();
        for chunk in of_map.chunks(ELEMENTS_A_MESSAGE) {
            batch = batch.add_set_elements(&lower_map(table, map), chunk);
        }
    }
    batch
}

fn lower_map(table: &str, map: PortMap) -> Set {
    let address = match map.family {
        IpFamily::V4 => SetKeyType::Ipv4Addr,
        IpFamily::V6 => SetKeyType::Ipv6Addr,
    };
    let mut key = vec![SetKeyType::InetProto, SetKeyType::InetService];
    if map.key == PortKey::Address {
        key.insert(0, address.clone());
    }
    let value = SetKeyType::Concat(vec![address, SetKeyType::InetService]);
    Set::new(table, map.name())
        .family(Family::Inet)
        .key_type(SetKeyType::Concat(key))
        .map(SetDataType::Value(value))
}

fn lower_element(element: &PortElement) -> SetElement {
    let mut key: Vec<SetElement> = element
        .host_address
        .map(lower_address)
        .into_iter()
        .collect();
    key.push(SetElement::inet_proto(element.protocol_number));
    key.push(SetElement::port(element.host_port));
    let value = [
        lower_address(element.pod_address),
        SetElement::port(element.pod_port),
    ];
    SetElement::concat(key).value(SetElement::concat(value))
}

fn lower_address(address: IpAddr) -> SetElement {
    match address {
        IpAddr::V4(v4) => SetElement::ipv4(v4),
        IpAddr::V6(v6) => SetElement::ipv6(v6),
    }
}

/// The tables of services: maps, chains and rules.
pub(crate) mod layout;
/// Matches and verdicts as the kernel's register machine.
mod lower;
/// The tables of services, over netlink.
pub(crate) mod services;
