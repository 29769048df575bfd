//! The tables of services, over netlink: load, change, and tell whether they stand.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nix::sys::socket::{setsockopt, sockopt};
use nlink::netlink::nftables::{
    Chain, ChainName, Family, Rule, Set, SetElement, Transaction, Verdict,
};
use nlink::netlink::{Connection, Nftables};

use crate::error::{Error, ErrorKind};
use crate::links::{Mac, fnv1a};
use crate::nft::layout::{self, ChainSpec, Layout, RETURN_TABLE_NAME};
use crate::nft::{kernel, lower_address, open};
use crate::services::wanted::{Change, picks};
use crate::services::{Door, Key, NodeDoor, Pick, TABLE, Value};

/// One message holds at most 64 KiB of nested elements.
const ELEMENTS_A_MESSAGE: usize = 400;

/// Room for a batch of half a million elements; the default fails with
/// `EMSGSIZE` beyond some twenty thousand.
const SEND_BUFFER_BYTES: usize = 256 << 20;

/// The number of the kernel's ruleset: every batch, by anybody, counts one up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

/// Reads the ruleset's number.
pub(crate) async fn read_generation() -> Result<Generation, Error> {
    let number = open()?.generation().await;
    let number = number.map_err(|error| kernel("NFT_MSG_GETGEN", error))?;
    Ok(Generation(number))
}

impl Generation {
    /// Whether exactly one batch lies between the two.
    pub(crate) fn is_next_after(self, before: Generation) -> bool {
        self.0 == before.0.wrapping_add(1)
    }
}

/// Whether somebody put the table there, with whatever in it.
pub(crate) async fn exist() -> Result<bool, Error> {
    table_exists(&open()?, Family::Inet, TABLE).await
}

/// Puts the table in place of whatever has its name, with these elements, at once.
pub(crate) async fn load(layout: &Layout, elements: &[(Key, Value)]) -> Result<(), Error> {
    let connection = open_wide()?;
    let exists = table_exists(&connection, Family::Inet, TABLE).await?;
    let mut batch = connection.transaction();
    if exists {
        batch = batch.del_table(TABLE, Family::Inet);
    }
    batch = batch.add_table_with_comment(TABLE, Family::Inet, 0, Some(&comment(layout)));
    for set in layout::sets() {
        batch = batch.add_set(set);
    }
    let chains = layout::chains(layout);
    batch = add_chains(batch, TABLE, Family::Inet, &chains)?;
    batch = add_picks(batch, &picks(elements.iter().map(|(_, value)| *value)))?;
    batch = add_elements(batch, elements)?;
    let done = batch.commit(&connection).await;
    done.map_err(|error| kernel(format!("load table inet {TABLE}"), error))
}

/// Applies a change, all or none. `known` are the chains that exist already.
pub(crate) async fn apply(change: &Change, known: &BTreeSet<Pick>) -> Result<(), Error> {
    let connection = open_wide()?;
    let mut batch = connection.transaction();
    for (map, elements) in by_map(&change.removed)? {
        for chunk in elements.chunks(ELEMENTS_A_MESSAGE) {
            batch = batch.del_set_elements(&named(&map), chunk);
        }
    }
    let new: BTreeSet<Pick> = change.picks().difference(known).copied().collect();
    batch = add_picks(batch, &new)?;
    batch = add_elements(batch, &change.added)?;
    let done = batch.commit(&connection).await;
    done.map_err(|error| kernel(format!("change table inet {TABLE}"), error))
}

/// Whether the table, its rules and all its elements are as wanted.
pub(crate) async fn stands(layout: &Layout, elements: &[(Key, Value)]) -> Result<bool, Error> {
    let connection = open()?;
    let tables = connection
        .list_tables_in(Family::Inet)
        .await
        .map_err(|error| kernel("NFT_MSG_GETTABLE(inet)", error))?;
    let wanted_comment = comment(layout);
    let is_ours = |comment: Option<&str>| comment == Some(wanted_comment.as_str());
    let found = tables
        .iter()
        .any(|table| table.name == TABLE && is_ours(table.comment.as_deref()));
    if !found || !rules_stand(&connection, layout, elements).await? {
        return Ok(false);
    }
    let mut wanted = by_map(elements)?;
    for set in layout::sets() {
        if set.name().starts_with("affinity") {
            continue;
        }
        let found = connection
            .list_set_elements(TABLE, set.name(), Family::Inet)
            .await;
        let found = match found {
            Err(error) if error.is_not_found() => return Ok(false),
            other => other.map_err(|error| kernel("NFT_MSG_GETSETELEM", error))?,
        };
        let wanted = wanted.remove(set.name()).unwrap_or_default();
        if !same_elements(&wanted, &found) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts the table that writes peers' MAC addresses into frames in place.
/// The tunnel's interface must exist.
pub(crate) async fn load_return(peers: &BTreeMap<u32, Mac>) -> Result<(), Error> {
    let connection = open()?;
    let mut batch = connection.transaction();
    if table_exists(&connection, Family::Netdev, RETURN_TABLE_NAME).await? {
        batch = batch.del_table(RETURN_TABLE_NAME, Family::Netdev);
    }
    let set = layout::return_set();
    batch = batch.add_table_with_comment(RETURN_TABLE_NAME, Family::Netdev, 0, None);
    batch = batch.add_set(set.clone());
    batch = add_chains(
        batch,
        RETURN_TABLE_NAME,
        Family::Netdev,
        &[layout::return_chain()],
    )?;
    let elements = return_elements(peers);
    for chunk in elements.chunks(ELEMENTS_A_MESSAGE) {
        batch = batch.add_set_elements(&set, chunk);
    }
    let done = batch.commit(&connection).await;
    done.map_err(|error| kernel(format!("load table netdev {RETURN_TABLE_NAME}"), error))
}

/// Whether that table stands. A chain whose interface went away has no hook.
pub(crate) async fn return_stands(peers: &BTreeMap<u32, Mac>) -> Result<bool, Error> {
    let connection = open()?;
    if !table_exists(&connection, Family::Netdev, RETURN_TABLE_NAME).await? {
        return Ok(false);
    }
    let rules = connection
        .list_rules(RETURN_TABLE_NAME, Family::Netdev)
        .await
        .map_err(|error| kernel("NFT_MSG_GETRULE(netdev)", error))?;
    if rules.len() != layout::return_chain().rules.len() {
        return Ok(false);
    }
    let found = connection
        .list_set_elements(RETURN_TABLE_NAME, "peer-macs", Family::Netdev)
        .await
        .map_err(|error| kernel("NFT_MSG_GETSETELEM", error))?;
    Ok(same_elements(&return_elements(peers), &found))
}

/// Removes both tables; succeeds if they are gone.
pub(crate) async fn remove() -> Result<(), Error> {
    let connection = open()?;
    for (name, family) in [(TABLE, Family::Inet), (RETURN_TABLE_NAME, Family::Netdev)] {
        let done = connection.del_table_if_exists(name, family).await;
        done.map_err(|error| kernel(format!("NFT_MSG_DELTABLE({name})"), error))?;
    }
    Ok(())
}

async fn rules_stand(
    connection: &Connection<Nftables>,
    layout: &Layout,
    elements: &[(Key, Value)],
) -> Result<bool, Error> {
    let rules = connection
        .list_rules(TABLE, Family::Inet)
        .await
        .map_err(|error| kernel(format!("NFT_MSG_GETRULE(inet {TABLE})"), error))?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for rule in rules.iter().filter(|rule| rule.table == TABLE) {
        *counts.entry(rule.chain.as_str()).or_default() += 1;
    }
    let fixed = layout::chains(layout);
    let picked = picks(elements.iter().map(|(_, value)| *value));
    let picked = picked.iter().map(layout::pick_chain);
    // More chains than needed may stand: counts that no service has any more.
    Ok(fixed
        .into_iter()
        .chain(picked)
        .all(|chain| counts.get(chain.name.as_str()) == Some(&chain.rules.len())))
}

async fn table_exists(
    connection: &Connection<Nftables>,
    family: Family,
    name: &str,
) -> Result<bool, Error> {
    let tables = connection
        .list_tables_in(family)
        .await
        .map_err(|error| kernel("NFT_MSG_GETTABLE", error))?;
    Ok(tables.iter().any(|table| table.name == name))
}

/// Tells one layout from another, of an earlier version or configuration.
fn comment(layout: &Layout) -> String {
    let text: String = layout::chains(layout)
        .iter()
        .flat_map(|chain| {
            let rules = chain.rules.iter();
            let rules = rules.map(|rule| format!("{:?}", rule.expressions));
            std::iter::once(chain.name.clone()).chain(rules)
        })
        .collect();
    let hash = fnv1a(text.bytes()) >> 32;
    format!("made and removed by berth for services, rules {hash:08x}")
}

fn add_chains(
    mut batch: Transaction,
    table: &str,
    family: Family,
    chains: &[ChainSpec],
) -> Result<Transaction, Error> {
    for chain in chains {
        let built = Chain::new(table, chain.name.as_str())
            .map_err(|error| kernel(format!("chain {}", chain.name), error))?
            .family(family);
        batch = batch.add_chain(match &chain.base {
            Some(base) => built.base(base.clone()),
            None => built,
        });
    }
    for chain in chains {
        for rule in &chain.rules {
            let built = Rule::new(table, chain.name.as_str()).family(family);
            let built = rule.expressions.iter().cloned().fold(built, Rule::then);
            batch = batch.add_rule(built.comment(rule.comment));
        }
    }
    Ok(batch)
}

fn add_picks(batch: Transaction, picks: &BTreeSet<Pick>) -> Result<Transaction, Error> {
    let chains: Vec<ChainSpec> = picks.iter().map(layout::pick_chain).collect();
    add_chains(batch, TABLE, Family::Inet, &chains)
}

fn add_elements(mut batch: Transaction, elements: &[(Key, Value)]) -> Result<Transaction, Error> {
    for (map, elements) in by_map(elements)? {
        for chunk in elements.chunks(ELEMENTS_A_MESSAGE) {
            batch = batch.add_set_elements(&named(&map), chunk);
        }
    }
    Ok(batch)
}

fn by_map(elements: &[(Key, Value)]) -> Result<BTreeMap<String, Vec<SetElement>>, Error> {
    let mut maps: BTreeMap<String, Vec<SetElement>> = BTreeMap::new();
    for (key, value) in elements {
        let element = lower_element(key, value)?;
        maps.entry(key.map()).or_default().push(element);
    }
    Ok(maps)
}

fn named(map: &str) -> Set {
    let mut sets = layout::sets().into_iter();
    sets.find(|set| set.name() == map)
        .unwrap_or_else(|| Set::new(TABLE, map).family(Family::Inet))
}

fn lower_element(key: &Key, value: &Value) -> Result<SetElement, Error> {
    let element = lower_key(key);
    Ok(match value {
        Value::Present => element,
        Value::Pick(pick) => element.verdict(goto(&pick.chain())?),
        Value::Refuse => element.verdict(goto("refuse")?),
        Value::Drop => element.verdict(Verdict::Drop),
        Value::Target(address, port) => element.value(target(*address, *port)),
        Value::Mark(mark) => element.value(SetElement::mark(*mark)),
    })
}

fn lower_key(key: &Key) -> SetElement {
    match key {
        Key::Service(door) | Key::Refused(door) | Key::Foreign(door) => {
            SetElement::concat(lower_door(door))
        }
        Key::Endpoint(door, index) => {
            let mut parts = lower_door(door);
            parts.push(SetElement::mark(u32::from(*index)));
            SetElement::concat(parts)
        }
        Key::NodePort(door) | Key::NodeRefused(door) => SetElement::concat(lower_node_door(door)),
        Key::NodeEndpoint(door, index) => {
            let mut parts = lower_node_door(door);
            parts.push(SetElement::mark(u32::from(*index)));
            SetElement::concat(parts)
        }
        Key::Hairpin(address) => {
            SetElement::concat([lower_address(*address), lower_address(*address)])
        }
        Key::Node(address) | Key::NodeMark(address) => lower_address(*address),
        Key::Peer(mac) => SetElement::ether(mac.0),
    }
}

fn lower_door(door: &Door) -> Vec<SetElement> {
    vec![
        lower_address(door.address),
        SetElement::inet_proto(door.protocol.number()),
        SetElement::port(door.port),
    ]
}

fn lower_node_door(door: &NodeDoor) -> Vec<SetElement> {
    vec![
        SetElement::inet_proto(door.protocol.number()),
        SetElement::port(door.port),
    ]
}

fn target(address: std::net::IpAddr, port: u16) -> SetElement {
    SetElement::concat([lower_address(address), SetElement::port(port)])
}

fn goto(chain: &str) -> Result<Verdict, Error> {
    let name = ChainName::new(chain)
        .map_err(|error| Error::caused(ErrorKind::Kernel, format!("goto {chain}"), error))?;
    Ok(Verdict::GotoTo(name))
}

fn return_elements(peers: &BTreeMap<u32, Mac>) -> Vec<SetElement> {
    let elements = peers.iter();
    elements
        .map(|(mark, mac)| SetElement::mark(*mark).value(SetElement::ether(mac.0)))
        .collect()
}

/// Compares keys and values, in any order.
fn same_elements(wanted: &[SetElement], found: &[SetElement]) -> bool {
    let rows = |elements: &[SetElement]| -> BTreeSet<(Vec<u8>, String)> {
        let rows = elements.iter().map(|element| {
            let data = element.data().map(|data| format!("{data:?}"));
            (element.key().to_vec(), data.unwrap_or_default())
        });
        rows.collect()
    };
    wanted.len() == found.len() && rows(wanted) == rows(found)
}

fn open_wide() -> Result<Connection<Nftables>, Error> {
    let connection = open()?;
    setsockopt(
        connection.socket(),
        sockopt::SndBufForce,
        &SEND_BUFFER_BYTES,
    )
    .map_err(|errno| {
        Error::caused(
            ErrorKind::Unsupported,
            format!("setsockopt(SO_SNDBUFFORCE, {SEND_BUFFER_BYTES})"),
            std::io::Error::from(errno),
        )
    })?;
    Ok(connection)
}
