//! The door to this crate: attach a pod, detach it, put right what was left.
//!
//! There is no daemon. Many processes may hold a [`Netd`] on the same state
//! directory; the ledger's lock makes them take turns. A process that is killed
//! in the middle leaves a record behind, and the next one to take the lock
//! undoes what the record tells of.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attach::{AttachPlan, Circumstances, plan_attach, without_missing_families};
use crate::error::{Error, ErrorKind};
use crate::files::ensure_private_directory;
use crate::flows::forget_flows_before;
use crate::ledger::{LockedLedger, Maker, PodState, remove_ledgers_of_other_boots};
use crate::links::apply::apply;
use crate::links::observe::{observe_host, read_own_addresses, read_statistics};
use crate::links::settle::{Ends, wait_until_settled};
use crate::links::socket::{RouteSocket, has_ipv6, open_netns};
use crate::links::{Ipv6, LinkStep, ObservedHost};
use crate::listeners::check_ports_free;
use crate::network::NetworkConfig;
use crate::nft::{KernelNft, Nft, ObservedTable};
use crate::release::{Doors, release_pod};
use crate::request::{AttachRequest, LinkStatistics, PodNetwork};
use crate::rules::plan::{plan_elements, plan_rules};
use crate::rules::{PortElement, Ruleset};
use crate::settings;

/// An attach takes some milliseconds; this many of them may wait in line.
const PATIENCE: Duration = Duration::from_secs(60);

/// One network of pods on this machine.
#[derive(Debug, Clone)]
pub struct Netd {
    state_dir: PathBuf,
    config: NetworkConfig,
    nft: KernelNft,
}

impl Netd {
    /// Makes the state directory if need be. Touches no network.
    ///
    /// # Errors
    ///
    /// `Invalid` for the configuration, `Storage` for the directory.
    pub fn open(state_dir: &Path, config: NetworkConfig) -> Result<Self, Error> {
        config.validate()?;
        ensure_private_directory(state_dir)?;
        remove_ledgers_of_other_boots(state_dir)?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            config,
            nft: KernelNft,
        })
    }

    /// Gives a pod its interface, addresses, routes and host ports: all or nothing.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NoNamespace`, `Conflict`, `AlreadyAttached` and `Exhausted` are
    /// about the request, and nothing was touched. After `Kernel`, `Unsupported`
    /// or `Storage` whatever was made has been taken away again.
    pub async fn attach(&self, request: &AttachRequest) -> Result<PodNetwork, Error> {
        request.validate()?;
        let netns = open_netns(&request.netns)?;
        check_not_our_own(&netns, &request.netns)?;
        let mut ledger = self.lock().await?;
        let links = RouteSocket::open_here()?;
        let doors = self.doors(&links);
        release_abandoned(doors, &mut ledger).await;
        let plan = self.plan_locked(request, &ledger, &links).await?;
        let in_family = |v4| {
            let mut addresses = plan.network.addresses.iter();
            addresses.any(|address| address.addr().is_ipv4() == v4)
        };
        check_ports_free(&request.host_ports, in_family(true), in_family(false))?;

        self.record(&mut ledger, &plan)?;
        let done = match self.carry_out(&plan, &netns, doors, &ledger).await {
            Ok(()) => self.mark_attached(&mut ledger, &plan.network.pod_id),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let pod_id = &plan.network.pod_id;
            if let Err(left) = release_pod(doors, &mut ledger, &self.config.name, pod_id).await {
                // The caller is told why the attach failed; this is another
                // failure, and the next holder of the lock tries again.
                tracing::warn!(
                    pod_id,
                    error = &left as &dyn std::error::Error,
                    "undo attach"
                );
            }
            return Err(error);
        }
        Ok(plan.network)
    }

    /// Takes away all that a pod has here. Succeeds if it has nothing, and when
    /// its network namespace is gone. With the last pod go bridge and table.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Storage`; asking again continues.
    pub async fn detach(&self, pod_id: &str) -> Result<(), Error> {
        let mut ledger = self.lock().await?;
        let links = RouteSocket::open_here()?;
        let doors = self.doors(&links);
        release_abandoned(doors, &mut ledger).await;
        release_pod(doors, &mut ledger, &self.config.name, pod_id).await
    }

    /// Gives back what dead pods hold, and restores the table if somebody
    /// flushed it. Returns the pods that were given back.
    ///
    /// A pod is dead if it is not in `live` and the process that attached it
    /// has ended; so a pod whose own record is still being written is safe.
    /// Covers every network of the state directory.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Storage`, after all pods have been tried.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let mut ledger = self.lock().await?;
        let links = RouteSocket::open_here()?;
        let doors = self.doors(&links);
        let dead: Vec<(String, String)> = ledger
            .ledger()
            .all_pods()
            .filter(|(_, pod_id, pod)| {
                pod.state == PodState::Attaching
                    || (!live.contains(*pod_id) && !pod.maker.is_alive())
            })
            .map(|(network, pod_id, _)| (network.to_owned(), pod_id.to_owned()))
            .collect();
        let mut given_back = Vec::new();
        let mut first_failure = None;
        for (network, pod_id) in dead {
            match release_pod(doors, &mut ledger, &network, &pod_id).await {
                Ok(()) => given_back.push(pod_id),
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        if ledger.ledger().pods_of(&self.config.name).next().is_some() {
            let restored = self.ensure_table(&self.rules_here()?, &ledger).await;
            first_failure = first_failure.or(restored.err());
        }
        match first_failure {
            None => Ok(given_back),
            Some(error) => Err(error),
        }
    }

    /// Sets `lo` up in a network namespace, for a pod without a network of its own.
    ///
    /// # Errors
    ///
    /// `NoNamespace`, `Kernel`.
    pub async fn bring_loopback_up(netns: &Path) -> Result<(), Error> {
        let netns = open_netns(netns)?;
        let inside = RouteSocket::open_in(&netns, || Ok(())).await?;
        let interface = "lo".to_owned();
        apply(inside.handle(), &[LinkStep::BringUp { interface }], None).await
    }

    /// The counters of every interface in a network namespace.
    ///
    /// # Errors
    ///
    /// `NoNamespace`, `Kernel`.
    pub async fn statistics(netns: &Path) -> Result<Vec<LinkStatistics>, Error> {
        let netns = open_netns(netns)?;
        let inside = RouteSocket::open_in(&netns, || Ok(())).await?;
        read_statistics(inside.handle()).await
    }

    /// What [`Netd::attach`] would do now. Changes nothing.
    ///
    /// # Errors
    ///
    /// Those of `attach` that are about the request.
    pub async fn plan(&self, request: &AttachRequest) -> Result<AttachPlan, Error> {
        let ledger = self.lock().await?;
        let links = RouteSocket::open_here()?;
        self.plan_locked(request, &ledger, &links).await
    }

    /// Whether pods could be attached now: the kernel answers for links and for
    /// rules, and has a family of addresses that the network uses. Changes nothing.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Unsupported`, with what does not answer.
    pub async fn check(&self) -> Result<(), Error> {
        let links = RouteSocket::open_here()?;
        observe_host(links.handle(), &self.config.bridge).await?;
        self.nft.observe_table(&self.rules_here()?).await?;
        Ok(())
    }

    /// The network's nftables table, without host ports.
    pub fn rules(&self) -> Ruleset {
        plan_rules(&self.config)
    }

    /// The configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    async fn lock(&self) -> Result<LockedLedger, Error> {
        LockedLedger::open(&self.state_dir, PATIENCE).await
    }

    fn doors<'a>(&'a self, links: &'a RouteSocket) -> Doors<'a> {
        Doors {
            links,
            nft: &self.nft,
        }
    }

    async fn plan_locked(
        &self,
        request: &AttachRequest,
        ledger: &LockedLedger,
        links: &RouteSocket,
    ) -> Result<AttachPlan, Error> {
        let host = ObservedHost {
            router_listeners: settings::observe_router_listeners(),
            forward_drops: self.nft.observe_forward_drops().await?,
            ipv6: ipv6_here(),
            ..observe_host(links.handle(), &self.config.bridge).await?
        };
        plan_attach(
            request,
            &Circumstances {
                config: &self.config,
                state_dir: &self.state_dir,
                ledger: ledger.ledger(),
                host: &host,
                maker: Maker::this_process()?,
            },
        )
    }

    fn record(&self, ledger: &mut LockedLedger, plan: &AttachPlan) -> Result<(), Error> {
        let network = self.config.name.clone();
        let (pod_record, network_record) = (plan.pod_record.clone(), plan.network_record.clone());
        ledger.update(|ledger| {
            let pods = ledger.pods.entry(network.clone()).or_default();
            pods.insert(plan.network.pod_id.clone(), pod_record);
            ledger.networks.insert(network, network_record);
        })
    }

    fn mark_attached(&self, ledger: &mut LockedLedger, pod_id: &str) -> Result<(), Error> {
        ledger.update(|ledger| {
            let pods = ledger.pods.get_mut(&self.config.name);
            if let Some(pod) = pods.and_then(|pods| pods.get_mut(pod_id)) {
                pod.state = PodState::Attached;
            }
        })
    }

    async fn carry_out(
        &self,
        plan: &AttachPlan,
        netns: &File,
        doors: Doors<'_>,
        ledger: &LockedLedger,
    ) -> Result<(), Error> {
        let host = doors.links.handle();
        apply(host, &plan.bridge_steps, None).await?;
        settings::apply(&plan.host_settings)?;
        apply(host, &plan.gateway_steps, None).await?;
        self.ensure_table(&plan.rules, ledger).await?;
        let pod_settings = plan.pod_settings.clone();
        let inside = RouteSocket::open_in(netns, move || settings::apply(&pod_settings)).await?;
        apply(host, &plan.veth_steps, Some(netns)).await?;
        apply(inside.handle(), &plan.pod_steps, None).await?;
        let ends = Ends {
            bridge: &self.config.bridge,
            port: &plan.pod_record.host_interface,
            pod: &plan.network.interface,
        };
        wait_until_settled(host, inside.handle(), ends).await?;
        doors
            .nft
            .add_elements(&plan.rules.table, &plan.elements)
            .await?;
        if !plan.elements.is_empty() {
            let own_addresses = read_own_addresses(host).await?;
            forget_flows_before(&plan.elements, &own_addresses).await;
        }
        Ok(())
    }

    /// The table as planned, with the host ports of every pod that is attached.
    async fn ensure_table(&self, rules: &Ruleset, ledger: &LockedLedger) -> Result<(), Error> {
        if self.nft.observe_table(rules).await? == ObservedTable::Stands {
            return Ok(());
        }
        let elements: Vec<PortElement> = ledger
            .ledger()
            .pods_of(&self.config.name)
            .filter(|(_, pod)| pod.state == PodState::Attached)
            .flat_map(|(_, pod)| plan_elements(&pod.host_ports, &pod.addresses))
            .collect();
        self.nft.replace_table(rules, &elements).await
    }

    fn rules_here(&self) -> Result<Ruleset, Error> {
        let host = ObservedHost {
            ipv6: ipv6_here(),
            ..ObservedHost::default()
        };
        let config = without_missing_families(&self.config, &host, &mut Vec::new())?;
        Ok(plan_rules(&config))
    }
}

/// Undoes what killed processes began. To hold the lock and find a record that
/// is still `attaching` is the proof that its maker is gone.
///
/// What cannot be undone keeps its record, and with it its addresses and ports,
/// so that the pod at hand need not care.
async fn release_abandoned(doors: Doors<'_>, ledger: &mut LockedLedger) {
    let abandoned: Vec<(String, String)> = ledger
        .ledger()
        .all_pods()
        .filter(|(_, _, pod)| pod.state == PodState::Attaching)
        .map(|(network, pod_id, _)| (network.to_owned(), pod_id.to_owned()))
        .collect();
    for (network, pod_id) in abandoned {
        if let Err(error) = release_pod(doors, ledger, &network, &pod_id).await {
            tracing::warn!(
                pod_id,
                error = &error as &dyn std::error::Error,
                "a killed process's pod could not be undone"
            );
        }
    }
}

fn ipv6_here() -> Ipv6 {
    if has_ipv6() {
        Ipv6::Present
    } else {
        Ipv6::Absent
    }
}

/// A pod that shares the host's namespace has the host's network already.
pub(crate) fn check_not_our_own(netns: &File, path: &Path) -> Result<(), Error> {
    let read = || Ok((netns.metadata()?, fs::metadata("/proc/thread-self/ns/net")?));
    let (theirs, ours) = read().map_err(|error: std::io::Error| {
        Error::caused(
            ErrorKind::Kernel,
            "stat of a network namespace's file",
            error,
        )
    })?;
    if (theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("netns {}: it is the host's own", path.display()),
    ))
}
