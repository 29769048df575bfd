//! `berth cluster init`: begins a cluster on this machine.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use berth_scheduler::server::pki::ensure_authority;
use berth_scheduler::trust::authority::NODE_LIFE;
use clap::Args;

use super::membership::{self, Standing};
use super::{need_root, token};
use crate::cluster::file::{
    Agent, Layout, Network, NodeFile, Server, StoreTlsArguments, one_hour, parse_store,
};
use crate::cluster::{ConfigArgument, Places, api};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

/// `berth cluster init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// By which address others reach this machine [default: the one of its default route]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<IpAddr>,
    /// Where the server listens
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub port: u16,
    /// Where the agent listens
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub agent_port: u16,
    /// The node's name [default: this machine's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the cluster's memory is: embedded, or etcd://HOST:PORT,HOST:PORT
    #[arg(long, value_name = "STORE", default_value = "embedded")]
    pub store: String,
    /// How to speak TLS with etcd
    #[command(flatten)]
    pub store_tls: StoreTlsArguments,
    /// Further names and addresses of the server, for its certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub san: Vec<String>,
    /// Where pods have their addresses; one IPv4 and one IPv6 range at most
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pod_range: Vec<String>,
    /// Where Services have their addresses
    #[arg(long, value_name = "CIDR")]
    pub service_range: Option<String>,
    /// What cluster names end in
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// How long nodes' certificates hold, in hours
    #[arg(long, value_name = "HOURS", hide_short_help = true)]
    pub node_certificate_hours: Option<f64>,
    /// How long the node may take to become ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    pub timeout: u64,
    /// Be the node's process instead of starting it
    #[arg(long)]
    pub foreground: bool,
    /// Where node.toml is
    #[command(flatten)]
    pub config: ConfigArgument,
}

/// Makes the authority and the node's file, starts its process, waits, and says how
/// others join. What fails is undone.
///
/// # Errors
///
/// The machine is in a cluster, an address or a port cannot be used, or the node does
/// not become ready.
pub async fn run(settings: &Settings, arguments: &InitArguments) -> Result<u8> {
    need_root()?;
    let places = Places::new(settings, &arguments.config);
    refuse_member(&places)?;
    let file = plan(arguments)?;
    if crate::cluster::process::live(&places).is_none() {
        check_ports(&file)?;
    }
    membership::begin(&places, "init")?;
    let made = make(settings, &places, &file, arguments).await;
    if let Err(error) = made {
        let left = membership::undo(settings, &places).await;
        return Err(membership::with_remains(error, &left));
    }
    if arguments.foreground {
        return crate::commands::node::serve(settings, &places, file).await;
    }
    Ok(0)
}

async fn make(
    settings: &Settings,
    places: &Places,
    file: &NodeFile,
    arguments: &InitArguments,
) -> Result<()> {
    // etcd may hold another cluster already; then the server says so.
    ensure_authority(&places.server_pki()).context("make the cluster's authority")?;
    file.write(&places.config)?;
    if arguments.foreground {
        return membership::end(places);
    }
    let patience = Duration::from_secs(arguments.timeout);
    membership::start_and_wait(settings, places, file, patience).await?;
    let client = api::connect(
        settings,
        &api::ClusterArguments {
            kubeconfig: Some(places.kubeconfig()),
            context: None,
        },
    )
    .await?;
    let words = token::create_default(&client, places).await?;
    membership::end(places)?;
    tell(file, places, &words)
}

fn refuse_member(places: &Places) -> Result<()> {
    match membership::observe(places)? {
        Standing::Stranger => Ok(()),
        Standing::Begun => {
            let what = std::fs::read_to_string(places.begun()).unwrap_or_default();
            if what == "init" {
                return Ok(());
            }
            Err(Error::new(
                "a join was begun on this machine and not ended: end it with the same 'berth cluster join', or take it back with 'berth cluster leave --force'; nothing was changed",
            ))
        }
        Standing::Member(file) => Err(Error::new(format!(
            "this machine is in a cluster already, as node {} ({}): 'berth cluster leave' first; nothing was changed",
            file.name,
            places.config.display()
        ))),
    }
}

/// What the flags mean.
fn plan(arguments: &InitArguments) -> Result<NodeFile> {
    let name = membership::node_name(arguments.name.as_deref())?;
    let store_tls = arguments.store_tls.words();
    if parse_store(&arguments.store)?.is_none() && store_tls.is_some() {
        return Err(Error::new(
            "--store-ca: the embedded store is a file and speaks no TLS; expected --store etcd://HOST:PORT,… with it; nothing was changed",
        ));
    }
    let advertise = match arguments.advertise_addr {
        Some(address) => address,
        // Any address outside will do: which route leads there is the question.
        None => membership::address_towards(SocketAddr::from(([192, 0, 2, 1], 9)))?,
    };
    membership::check_address(advertise)?;
    let mut cluster = Layout::default();
    if !arguments.pod_range.is_empty() {
        cluster.pod_ranges = arguments.pod_range.clone();
    }
    if let Some(range) = &arguments.service_range {
        cluster.dns = tenth_address(range)?;
        cluster.service_range = range.clone();
    }
    if let Some(domain) = &arguments.domain {
        cluster.domain = domain.trim_end_matches('.').to_owned();
    }
    for range in cluster.pod_ranges.iter().chain([&cluster.service_range]) {
        check_range(range)?;
    }
    let any = membership::any_of(advertise);
    let hours = arguments
        .node_certificate_hours
        .unwrap_or(NODE_LIFE.as_secs_f64() / 3600.0);
    if !hours.is_finite() || hours <= 0.0 {
        return Err(Error::new(
            "--node-certificate-hours: expected more than 0; nothing was changed",
        ));
    }
    Ok(NodeFile {
        name,
        address: advertise,
        servers: vec![SocketAddr::new(advertise, arguments.port)],
        cluster,
        server: Some(Server {
            listen: SocketAddr::new(any, arguments.port),
            advertise,
            names: arguments.san.clone(),
            store: arguments.store.clone(),
            store_tls,
            node_certificate_hours: hours,
            event_hours: one_hour(),
        }),
        agent: Agent {
            port: arguments.agent_port,
            ..Agent::default()
        },
        network: Network::default(),
    })
}

fn check_ports(file: &NodeFile) -> Result<()> {
    if let Some(server) = &file.server {
        membership::check_port(server.listen, "the server (--port chooses another)")?;
    }
    let agent = SocketAddr::new(file.address, file.agent.port);
    membership::check_port(agent, "the agent (--agent-port chooses another)")
}

fn check_range(range: &str) -> Result<()> {
    let sound = range.split_once('/').is_some_and(|(network, length)| {
        match (network.parse::<IpAddr>(), length.parse::<u8>()) {
            (Ok(IpAddr::V4(_)), Ok(length)) => length <= 24,
            (Ok(IpAddr::V6(_)), Ok(length)) => length <= 112,
            _ => false,
        }
    });
    if sound {
        return Ok(());
    }
    Err(Error::new(format!(
        "range {range:?}: expected ADDRESS/LENGTH with room for a cluster, like 10.210.0.0/16; nothing was changed"
    )))
}

/// Where cluster names are looked up: the tenth address of the Services' range.
fn tenth_address(range: &str) -> Result<IpAddr> {
    check_range(range)?;
    let network = range.split_once('/').map(|(network, _)| network);
    match network.and_then(|network| network.parse().ok()) {
        Some(IpAddr::V4(network)) => Ok(IpAddr::V4((u32::from(network) + 10).into())),
        Some(IpAddr::V6(network)) => Ok(IpAddr::V6((u128::from(network) + 10).into())),
        None => Err(Error::new(format!("range {range:?}: not an address"))),
    }
}

fn tell(file: &NodeFile, places: &Places, token: &str) -> Result<()> {
    let server = file.servers.first().map(SocketAddr::to_string);
    let server = server.unwrap_or_default();
    print_line(&format!(
        "The cluster runs, and node {} is ready. On the other machines, within 24 hours:\n",
        file.name
    ))?;
    print_line(&format!(
        "    berth cluster join --token {token} {server}\n"
    ))?;
    if file
        .server
        .as_ref()
        .is_some_and(|server| server.store != "embedded")
    {
        print_line(
            "Further servers join by the line that 'berth cluster token create --server' prints.\n",
        )?;
    }
    print_line("Use it with 'berth get nodes', or with kubectl:\n")?;
    print_line(&format!(
        "    export KUBECONFIG={}\n    kubectl get nodes",
        places.kubeconfig().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_and_names_are_looked_up_in_theirs() {
        for range in ["10.0.0.0/16", "fd00::/108", "10.0.0.0/24"] {
            check_range(range).unwrap();
        }
        for range in [
            "10.0.0.0",
            "10.0.0.0/30",
            "fd00::/120",
            "a/8",
            "10.0.0.0/x",
            "",
        ] {
            assert!(check_range(range).is_err(), "{range:?}");
        }
        assert_eq!(
            tenth_address("10.96.0.0/12").unwrap(),
            IpAddr::from([10, 96, 0, 10])
        );
    }

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        for address in ["127.0.0.1", "0.0.0.0", "::1", "224.0.0.1", "192.0.2.7"] {
            let error = membership::check_address(address.parse().unwrap()).unwrap_err();
            assert!(error.chain().contains("nothing was changed"), "{address}");
        }
    }
}
