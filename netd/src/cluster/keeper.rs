//! Puts in place what follows from the model, and looks after it.
//!
//! Two things make it work: news of the API, and a look at the kernel, which
//! comes every second and at once when the kernel tells that a link, address,
//! route, rule or neighbour changed. A look at nftables costs one message as
//! long as nobody touched the ruleset, for every batch counts its generation
//! up.
//!
//! The state file of the last netd is behind what that netd did: by seconds, if
//! it was killed. So what it left in the kernel is better than what the file
//! says, and stays until the API has told everything; the file is for a machine
//! that began anew, and for names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cluster::feed::{News, Update};
use crate::cluster::model::Model;
use crate::cluster::{ClusterNetConfig, state};
use crate::dns::server::DnsServer;
use crate::dns::{Named, Names};
use crate::error::{Error, ErrorKind};
use crate::flows::forget_endpoints;
use crate::links::Ipv6;
use crate::links::LinkStep;
use crate::links::Mac;
use crate::links::apply::{apply as apply_links, index_of};
use crate::links::socket::{RouteSocket, has_ipv6};
use crate::nft::layout::Layout;
use crate::nft::services::{self as tables, Generation};
use crate::overlay::{self, Step};
use crate::services::wanted::{Change, Wanted, picks};
use crate::services::{self, Key, Pick, Value};

/// News come in flocks (a deployment rolls); they are put in place together.
const FLOCK: Duration = Duration::from_millis(5);

/// The state file lags behind by at most this.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Services of our own, which no namespace can have.
const NODES: &str = "//nodes";
const DNS: &str = "//dns";

/// The state of one node.
pub(crate) struct Keeper {
    config: ClusterNetConfig,
    layout: Layout,
    links: RouteSocket,
    model: Model,
    wanted: Wanted,
    /// Chains that exist, as far as we know.
    known_picks: BTreeSet<Pick>,
    /// The ruleset that our table was last seen in as wanted.
    verified: Option<Generation>,
    /// The same for the table that leads answers back. None after the tunnel's
    /// interface was made, for the chain hangs on it.
    return_verified: Option<Generation>,
    place: services::Place,
    names: Names,
    /// What the DNS server reads.
    published: Arc<ArcSwap<Names>>,
    server: Option<DnsServer>,
    dirty: Dirty,
    unwritten_since: Option<Instant>,
    heard: Heard,
    /// What another netd left in the kernel is not replaced yet.
    defers: bool,
}

/// Of which kinds the API has told all there are.
#[derive(Debug, Default)]
struct Heard {
    nodes: bool,
    services: bool,
    slices: bool,
}

impl Heard {
    fn everything(&self) -> bool {
        self.nodes && self.services && self.slices
    }
}

/// What has to be planned again.
#[derive(Debug, Default)]
struct Dirty {
    nodes: bool,
    services: BTreeSet<String>,
}

impl Keeper {
    /// Takes over what the last netd of this node knew.
    pub(crate) async fn open(config: ClusterNetConfig) -> Result<Self, Error> {
        let model = state::read(&config.state_dir)?;
        let mut keeper = Self {
            layout: Layout {
                service_ranges: config.service_ranges.clone(),
                tunnel_port: config.overlay.port,
            },
            links: RouteSocket::open_here()?,
            model,
            wanted: Wanted::default(),
            known_picks: BTreeSet::new(),
            verified: None,
            return_verified: None,
            place: services::Place::default(),
            published: Arc::new(ArcSwap::from_pointee(Names::new(&config.dns.domain))),
            names: Names::new(&config.dns.domain),
            server: None,
            dirty: Dirty::default(),
            unwritten_since: None,
            heard: Heard::default(),
            defers: true,
            config,
        };
        keeper.dirty.nodes = !keeper.model.nodes.is_empty();
        let known = keeper.model.services.keys().cloned();
        keeper.dirty.services = known.collect();
        Ok(keeper)
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        shutdown: CancellationToken,
    ) {
        let mut changes = watch_links(&shutdown);
        let mut looks = interval(self.config.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if !self.model.nodes.is_empty() {
            self.settle().await;
        }
        let mut flock = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                count = updates.recv_many(&mut flock, 1024) => {
                    if count == 0 {
                        break;
                    }
                    tokio::time::sleep(FLOCK).await;
                    while let Ok(update) = updates.try_recv() {
                        flock.push(update);
                    }
                    flock.drain(..).for_each(|update| self.note(update));
                    self.settle().await;
                }
                Some(()) = changes.recv() => self.look().await,
                _ = looks.tick() => {
                    self.look().await;
                    self.write_if_due(WRITE_EVERY);
                }
            }
        }
        self.write_if_due(Duration::ZERO);
    }

    fn note(&mut self, update: Update) {
        match update {
            Update::Node(news) => {
                self.heard.nodes |= news.is_all();
                self.dirty.nodes |= replace(&mut self.model.nodes, news, |_, _| {});
            }
            Update::Service(news) => {
                self.heard.services |= news.is_all();
                let dirty = &mut self.dirty.services;
                replace(&mut self.model.services, news, |name, _| {
                    dirty.insert(name.to_owned());
                });
            }
            Update::Slice(news) => {
                self.heard.slices |= news.is_all();
                let dirty = &mut self.dirty.services;
                replace(&mut self.model.slices, news, |_, slice| {
                    dirty.insert(slice.service.clone());
                });
            }
        }
        self.unwritten_since.get_or_insert_with(Instant::now);
    }

    /// Plans again what is dirty, and puts it in place.
    async fn settle(&mut self) {
        if std::mem::take(&mut self.dirty.nodes) {
            self.model.number_nodes();
            self.return_verified = None;
            self.settle_place();
        }
        let mut change = self
            .wanted
            .replace(NODES, services::plan_nodes(&self.model, &self.config.node));
        let dns = &self.config.dns;
        let dns = services::plan_dns(&dns.addresses, dns.port);
        change.extend(self.wanted.replace(DNS, dns));
        change.extend(self.plan_services());
        self.published.store(Arc::new(self.names.clone()));
        if self.may_replace().await {
            if let Err(error) = self.change_tables(&change).await {
                warn(
                    &error,
                    "services are not in place; the next look tries again",
                );
                self.verified = None;
            }
            self.forget(&change).await;
        }
        self.look().await;
    }

    /// Whether what is in the kernel may be replaced by what follows from the model.
    async fn may_replace(&mut self) -> bool {
        if self.defers {
            let nothing_is_there = match tables::exist().await {
                Ok(exist) => !exist,
                Err(error) => {
                    warn(&error, "nftables cannot be read; the next look tries again");
                    false
                }
            };
            self.defers = !self.heard.everything() && !nothing_is_there;
        }
        !self.defers
    }

    /// Where an endpoint is decides how it is reached, so when ranges or nodes'
    /// addresses change every service is planned again.
    fn settle_place(&mut self) {
        let ranges = |node: &crate::cluster::model::Node| node.pod_ranges.clone();
        let own = self.model.nodes.get(&self.config.node);
        let place = services::Place {
            node: self.config.node.clone(),
            pod_ranges: self.model.nodes.values().flat_map(ranges).collect(),
            own_ranges: own.map(ranges).unwrap_or_default(),
            nodes: self
                .model
                .nodes
                .values()
                .flat_map(|node| node.addresses.clone())
                .collect(),
        };
        if place != self.place {
            self.names.set_pod_ranges(place.pod_ranges.clone());
            self.place = place;
            let all = self.model.services.keys().cloned();
            self.dirty.services.extend(all);
        }
    }

    fn plan_services(&mut self) -> Change {
        let dirty = std::mem::take(&mut self.dirty.services);
        let by_service = self.model.slices_by_service();
        let mut change = Change::default();
        for name in dirty {
            let slices = by_service.get(name.as_str()).cloned().unwrap_or_default();
            let service = self.model.services.get(&name);
            let elements = service
                .map(|s| services::plan_service(s, &slices, &self.place, &self.wanted.of(&name)));
            let elements = elements.unwrap_or_default();
            let named = service.map(|service| Named::new(service, &slices));
            self.names.replace(&name, named);
            change.extend(self.wanted.replace(&name, elements));
        }
        change
    }

    async fn change_tables(&mut self, change: &Change) -> Result<(), Error> {
        let Some(before) = self.verified else {
            return self.ensure_tables().await;
        };
        if change.is_empty() {
            return Ok(());
        }
        if tables::apply(change, &self.known_picks).await.is_err() {
            // Somebody took away what we counted on: look at the whole.
            return self.ensure_tables().await;
        }
        self.known_picks.extend(change.picks());
        let after = tables::read_generation().await?;
        // Another's batch in between may have touched our table.
        self.verified = after.is_next_after(before).then_some(after);
        if self.return_verified == Some(before) {
            self.return_verified = self.verified.or(self.return_verified);
        }
        Ok(())
    }

    /// Loads the table unless it stands, with every element.
    async fn ensure_tables(&mut self) -> Result<(), Error> {
        let generation = tables::read_generation().await?;
        let elements: Vec<(Key, Value)> = self.wanted.elements().collect();
        let needed = picks(elements.iter().map(|(_, value)| *value));
        if tables::stands(&self.layout, &elements).await? {
            self.known_picks.extend(needed);
            self.verified = Some(generation);
            return Ok(());
        }
        tracing::info!(elements = elements.len(), "loading the table of services");
        tables::load(&self.layout, &elements).await?;
        self.known_picks = needed;
        let after = tables::read_generation().await?;
        self.verified = after.is_next_after(generation).then_some(after);
        Ok(())
    }

    /// Flows that nobody answers do not end by themselves when the endpoint does.
    async fn forget(&self, change: &Change) {
        let gone = change.endpoints_gone();
        if gone.is_empty() {
            return;
        }
        forget_endpoints(&gone).await;
    }

    /// Looks at the kernel and puts right what is not as it should be.
    async fn look(&mut self) {
        if self.may_replace().await {
            if let Err(error) = self.look_at_overlay().await {
                warn(
                    &error,
                    "the overlay is not in place; the next look tries again",
                );
            }
            if let Err(error) = self.look_at_tables().await {
                warn(
                    &error,
                    "services are not in place; the next look tries again",
                );
            }
        }
        if let Err(error) = self.look_at_dns().await {
            warn(&error, "names are not served; the next look tries again");
        }
    }

    async fn look_at_overlay(&mut self) -> Result<(), Error> {
        let handle = self.links.handle();
        let node = self.model.nodes.get(&self.config.node);
        let Some(local) = node.and_then(|node| node.addresses.first()) else {
            return Ok(());
        };
        let mtu = overlay::observe::read_underlay_mtu(handle, *local).await?;
        let place = overlay::Place {
            node: &self.config.node,
            underlay_mtu: mtu.ok_or_else(|| no_address(&self.config.node, *local))?,
            ipv6: if has_ipv6() {
                Ipv6::Present
            } else {
                Ipv6::Absent
            },
        };
        let Some(desired) = overlay::desired(&self.config.overlay, &self.model, &place) else {
            return Ok(());
        };
        let observed = overlay::observe::observe(handle).await?;
        let steps = overlay::plan(&desired, &observed);
        let changes = steps.iter().filter(|step| !matches!(step, Step::Set(_)));
        for step in changes {
            tracing::info!(%step, "overlay");
        }
        if steps.iter().any(|step| matches!(step, Step::AddDevice(_))) {
            self.return_verified = None;
        }
        overlay::apply::apply(self.links.handle(), &steps).await
    }

    async fn look_at_tables(&mut self) -> Result<(), Error> {
        let generation = tables::read_generation().await?;
        if self.return_verified != Some(generation) {
            self.ensure_return_table().await?;
        }
        if self.verified != Some(tables::read_generation().await?) {
            self.ensure_tables().await?;
        }
        Ok(())
    }

    async fn ensure_return_table(&mut self) -> Result<(), Error> {
        let generation = tables::read_generation().await?;
        let peers = self.peers();
        // No interface yet: this node has no range of its own.
        if index_of(self.links.handle(), overlay::DEVICE)
            .await
            .is_err()
        {
            return Ok(());
        }
        if self.return_verified.is_some() && tables::return_stands(&peers).await? {
            self.return_verified = Some(generation);
            return Ok(());
        }
        tables::load_return(&peers).await?;
        let after = tables::read_generation().await?;
        if self.verified == Some(generation) && after.is_next_after(generation) {
            self.verified = Some(after);
        }
        self.return_verified = Some(after);
        Ok(())
    }

    fn peers(&self) -> BTreeMap<u32, Mac> {
        let elements = services::plan_nodes(&self.model, &self.config.node);
        let peers = elements
            .into_iter()
            .filter_map(|(key, value)| match (key, value) {
                (Key::Peer(mac), Value::Mark(mark)) => Some((mark, mac)),
                _ => None,
            });
        peers.collect()
    }

    /// The addresses first: the server listens at them.
    async fn look_at_dns(&mut self) -> Result<(), Error> {
        let steps: Vec<LinkStep> = self
            .config
            .dns
            .addresses
            .iter()
            .map(|address| LinkStep::AddAddress {
                interface: "lo".to_owned(),
                address: IpNet::from(*address),
            })
            .collect();
        apply_links(self.links.handle(), &steps, None).await?;
        if self.server.is_none() {
            let names = Arc::clone(&self.published);
            self.server = Some(DnsServer::start(&self.config.dns, names).await?);
        }
        Ok(())
    }

    fn write_if_due(&mut self, age: Duration) {
        let is_due = self
            .unwritten_since
            .is_some_and(|since| since.elapsed() >= age);
        if !is_due {
            return;
        }
        match state::write(&self.config.state_dir, &self.model) {
            Ok(()) => self.unwritten_since = None,
            Err(error) => warn(&error, "the state file is not written"),
        }
    }
}

/// Takes away all that was made on this machine.
pub(crate) async fn remove(config: &ClusterNetConfig) -> Result<(), Error> {
    let links = RouteSocket::open_here()?;
    let observed = overlay::observe::observe(links.handle()).await?;
    overlay::apply::apply(links.handle(), &overlay::plan_removal(&observed)).await?;
    tables::remove().await?;
    for address in &config.dns.addresses {
        overlay::apply::remove_address(links.handle(), "lo", *address).await?;
    }
    state::remove(&config.state_dir)
}

/// Puts news into a part of the model; tells each object that changed, before
/// and after, and whether any did.
fn replace<T: PartialEq>(
    known: &mut BTreeMap<String, T>,
    news: News<T>,
    mut changed: impl FnMut(&str, &T),
) -> bool {
    let mut is_changed = false;
    let mut one = |known: &mut BTreeMap<String, T>, name: String, object: Option<T>| {
        if known.get(&name) == object.as_ref() {
            return;
        }
        is_changed = true;
        if let Some(before) = known.remove(&name) {
            changed(&name, &before);
        }
        if let Some(after) = object {
            changed(&name, &after);
            known.insert(name, after);
        }
    };
    match news {
        News::One(name, object) => one(known, name, object),
        News::All(all) => {
            let gone: Vec<String> = known
                .keys()
                .filter(|name| !all.contains_key(*name))
                .cloned()
                .collect();
            for name in gone {
                one(known, name, None);
            }
            for (name, object) in all {
                one(known, name, Some(object));
            }
        }
    }
    is_changed
}

/// Tells, without saying what, that something of links, addresses, routes,
/// rules or neighbours changed. Many at once are told once.
fn watch_links(shutdown: &CancellationToken) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
    ];
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        // Without it the look of every second has to do.
        let Ok((connection, _, mut messages)) = rtnetlink::new_multicast_connection(&groups) else {
            return;
        };
        let driver = tokio::spawn(connection);
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => break,
                message = messages.next() => message,
            };
            if message.is_none() {
                break;
            }
            // Our own steps come back as messages, in flocks too.
            tokio::time::sleep(Duration::from_millis(100)).await;
            while futures::FutureExt::now_or_never(messages.next())
                .flatten()
                .is_some()
            {}
            if sender.send(()).await.is_err() {
                break;
            }
        }
        driver.abort();
    });
    receiver
}

fn no_address(node: &str, local: IpAddr) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("node {node}: this machine does not have its address {local}"),
    )
}

fn warn(error: &Error, what: &str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}
