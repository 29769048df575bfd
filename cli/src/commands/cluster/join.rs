//! `berth cluster join`: brings this machine into a cluster.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use berth_scheduler::trust::authority::Authority;
use berth_scheduler::trust::credential::Credential;
use berth_scheduler::trust::files;
use berth_scheduler::trust::join::{self, EtcdTls, Grant, Membership, Role};
use berth_scheduler::trust::token::Token;
use clap::Args;

use super::membership::{self, Standing};
use super::need_root;
use crate::cluster::file::{
    Agent, Layout, Network, NodeFile, Server, StoreTls, StoreTlsArguments, one_hour, parse_store,
};
use crate::cluster::{ConfigArgument, Places};
use crate::error::{Context, Error, Result};
use crate::output::print_line;
use crate::settings::Settings;

/// `berth cluster join --token TOKEN ADDRESS`.
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// Where the cluster's server is
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub server_address: String,
    /// What 'berth cluster init' or 'berth cluster token create' printed
    #[arg(
        long,
        env = "BERTH_JOIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub token: String,
    /// By which address others reach this machine [default: the one towards the server]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<IpAddr>,
    /// Where the agent listens
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub agent_port: u16,
    /// The node's name [default: this machine's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Be a server too; the cluster's memory must be in etcd, and the token made for servers
    #[arg(long)]
    pub server: bool,
    /// By which addresses this server reaches the cluster's etcd [default: as the other servers]
    #[arg(long, value_name = "STORE", requires = "server")]
    pub store: Option<String>,
    /// How to speak TLS with etcd [default: as the other servers]
    #[command(flatten)]
    pub store_tls: StoreTlsArguments,
    /// Further names and addresses of the server here, for its certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "server")]
    pub san: Vec<String>,
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

/// Asks for membership, writes the node's file, starts its process and waits. What
/// fails is undone.
///
/// # Errors
///
/// The machine is in a cluster, the token is refused, or the node does not become ready.
pub async fn run(settings: &Settings, arguments: &JoinArguments) -> Result<u8> {
    need_root()?;
    let places = Places::new(settings, &arguments.config);
    refuse_member(&places)?;
    let request = plan(arguments)?;
    if crate::cluster::process::live(&places).is_none() {
        let agent = SocketAddr::new(request.address, arguments.agent_port);
        membership::check_port(agent, "the agent (--agent-port chooses another)")?;
        if arguments.server {
            membership::check_port(request.listen(), "the server")?;
        }
    }
    membership::begin(&places, "join")?;
    let outcome = make(settings, &places, &request, arguments).await;
    let file = match outcome {
        Ok(file) => file,
        Err(error) => {
            let left = membership::undo(settings, &places).await;
            return Err(membership::with_remains(error, &left));
        }
    };
    if arguments.foreground {
        return crate::commands::node::serve(settings, &places, file).await;
    }
    let role = if file.server.is_some() {
        "Server and node"
    } else {
        "Node"
    };
    print_line(&format!("{role} {} is ready.", file.name))?;
    Ok(0)
}

/// What the words mean, before anybody is asked.
struct Request {
    server: SocketAddr,
    token: Token,
    name: String,
    address: IpAddr,
}

impl Request {
    /// Where a server here listens: all servers of a cluster have one port.
    fn listen(&self) -> SocketAddr {
        SocketAddr::new(membership::any_of(self.address), self.server.port())
    }
}

fn plan(arguments: &JoinArguments) -> Result<Request> {
    let token: Token = arguments.token.parse().context("read --token")?;
    let server = resolve(&arguments.server_address)?;
    let name = membership::node_name(arguments.name.as_deref())?;
    if let Some(store) = &arguments.store
        && parse_store(store)?.is_none()
    {
        return Err(Error::new(
            "--store: servers share an etcd; expected etcd://HOST:PORT,HOST:PORT; nothing was changed",
        ));
    }
    let address = match arguments.advertise_addr {
        Some(address) => address,
        None => membership::address_towards(server)?,
    };
    membership::check_address(address)?;
    Ok(Request {
        server,
        token,
        name,
        address,
    })
}

fn resolve(text: &str) -> Result<SocketAddr> {
    let text = text.strip_prefix("https://").unwrap_or(text);
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 6443));
    }
    let with_port = if text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        text.to_owned()
    } else {
        format!("{text}:6443")
    };
    let mut found = with_port
        .to_socket_addrs()
        .context(format!("find the address of {text:?}; nothing was changed"))?;
    found
        .next()
        .ok_or_else(|| Error::new(format!("{text:?} has no address; nothing was changed")))
}

fn refuse_member(places: &Places) -> Result<()> {
    match membership::observe(places)? {
        Standing::Stranger => Ok(()),
        Standing::Begun => {
            let what = std::fs::read_to_string(places.begun()).unwrap_or_default();
            if what == "join" {
                return Ok(());
            }
            Err(Error::new(
                "an init was begun on this machine and not ended: end it with 'berth cluster init', or take it back with 'berth cluster leave --force'; nothing was changed",
            ))
        }
        Standing::Member(file) => Err(Error::new(format!(
            "this machine is in a cluster already, as node {} ({}): 'berth cluster leave' first; nothing was changed",
            file.name,
            places.config.display()
        ))),
    }
}

async fn make(
    settings: &Settings,
    places: &Places,
    request: &Request,
    arguments: &JoinArguments,
) -> Result<NodeFile> {
    let file = match remembered(places)? {
        // A join that was killed after the cluster had said yes: the token may be spent.
        Some(file) => file,
        None => {
            let role = match arguments.server {
                true => Role::Server,
                false => Role::Node,
            };
            let membership = join::join(request.server, &request.token, &request.name, role)
                .await
                .context("join the cluster")?;
            let pki = places.node_pki();
            let written = membership.credential.write(&pki, "node");
            written.context("write the node's certificate")?;
            let server = match &membership.server {
                Some(grant) => {
                    let authority = &membership.credential.authority;
                    keep_authority(places, authority, grant)?;
                    Some(server_file(places, request, arguments, grant)?)
                }
                None if arguments.server => {
                    return Err(Error::new(
                        "join the cluster: the server there is an older one, that lets in no further servers",
                    ));
                }
                None => None,
            };
            let file = node_file(request, arguments, membership, server);
            file.write(&places.config)?;
            file
        }
    };
    if !arguments.foreground {
        let patience = Duration::from_secs(arguments.timeout);
        membership::start_and_wait(settings, places, &file, patience).await?;
    }
    membership::end(places)?;
    Ok(file)
}

/// What an earlier join had got already.
fn remembered(places: &Places) -> Result<Option<NodeFile>> {
    let credential = Credential::read(&places.node_pki(), "node").context("look what is there")?;
    let file = NodeFile::read(&places.config)?;
    Ok(file.filter(|_| credential.is_some()))
}

/// Writes the authority's key, which a server signs with.
fn keep_authority(places: &Places, certificate: &str, grant: &Grant) -> Result<()> {
    let key = grant.authority_key.clone();
    Authority::from_pem(certificate.to_owned(), key)
        .and_then(|authority| authority.write(&places.server_pki()))
        .context("keep the cluster's authority")
}

/// `[server]`: what the other server told, but for what the command line says.
fn server_file(
    places: &Places,
    request: &Request,
    arguments: &JoinArguments,
    grant: &Grant,
) -> Result<Server> {
    let told = format!("etcd://{}", grant.etcd.join(","));
    let store_tls = match (arguments.store_tls.words(), &grant.etcd_tls) {
        (Some(words), _) => Some(words),
        (None, Some(tls)) => Some(keep_etcd_tls(places, tls)?),
        (None, None) => None,
    };
    Ok(Server {
        listen: request.listen(),
        advertise: request.address,
        names: arguments.san.clone(),
        store: arguments.store.clone().unwrap_or(told),
        store_tls,
        node_certificate_hours: Duration::from_secs(grant.node_certificate_seconds).as_secs_f64()
            / 3600.0,
        event_hours: one_hour(),
    })
}

fn keep_etcd_tls(places: &Places, tls: &EtcdTls) -> Result<StoreTls> {
    let keep = |name: &str, text: &str| -> Result<PathBuf> {
        let path = places.server_pki().join(name);
        files::write(&path, text.as_bytes()).context("keep the way to etcd")?;
        Ok(path)
    };
    let (certificate, key) = match &tls.identity {
        Some((certificate, key)) => (
            Some(keep("etcd-client.crt", certificate)?),
            Some(keep("etcd-client.key", key)?),
        ),
        None => (None, None),
    };
    Ok(StoreTls {
        ca: keep("etcd-ca.crt", &tls.authority)?,
        cert: certificate,
        key,
    })
}

fn node_file(
    request: &Request,
    arguments: &JoinArguments,
    membership: Membership,
    server: Option<Server>,
) -> NodeFile {
    let mut servers = membership.cluster.servers.clone();
    if !servers.contains(&request.server) {
        servers.insert(0, request.server);
    }
    if server.is_some() {
        servers.insert(0, SocketAddr::new(request.address, request.server.port()));
    }
    NodeFile {
        name: request.name.clone(),
        address: request.address,
        servers,
        cluster: Layout::from(membership.cluster),
        server,
        agent: Agent {
            port: arguments.agent_port,
            ..Agent::default()
        },
        network: Network::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_with_or_without_its_port() {
        let expected: SocketAddr = ([10, 0, 0, 1], 6443).into();
        for text in ["10.0.0.1", "10.0.0.1:6443", "https://10.0.0.1:6443"] {
            assert_eq!(resolve(text).unwrap(), expected, "{text}");
        }
        assert_eq!(
            resolve("fd00::1").unwrap(),
            "[fd00::1]:6443".parse().unwrap()
        );
        assert_eq!(
            resolve("[fd00::1]:7000").unwrap(),
            "[fd00::1]:7000".parse().unwrap()
        );
        assert_eq!(resolve("localhost:1").unwrap().port(), 1);
        assert!(resolve("no such host").is_err());
    }
}
