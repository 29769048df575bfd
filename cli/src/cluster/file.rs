//! `node.toml`: what a machine is in its cluster.
//!
//! `cluster init` and `cluster join` write it whole; after that it is the operator's.
//! A key that is not known is a mistake and named as one: a typing error that does
//! nothing would be found much later.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_scheduler::agent::settings::{self, ImageLimits, LogLimits};
use berth_scheduler::server::{EtcdPlace, ServerConfig, StorePlace};
use berth_scheduler::store::etcd::TlsFiles;
use berth_scheduler::trust::files;
use berth_scheduler::trust::join::ClusterLayout;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NodeFile {
    /// The node's name.
    pub name: String,
    /// By which address other nodes reach it.
    pub address: IpAddr,
    /// Where servers answer.
    pub servers: Vec<SocketAddr>,
    /// How the cluster is laid out.
    #[serde(default)]
    pub cluster: Layout,
    /// A server runs here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// The agent.
    #[serde(default)]
    pub agent: Agent,
    /// The overlay between nodes.
    #[serde(default)]
    pub network: Network,
}

/// `[cluster]`: the same on every node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Layout {
    /// Where pods have their addresses; one of each family at most.
    pub pod_ranges: Vec<String>,
    /// Where Services have theirs.
    pub service_range: String,
    /// Where cluster names are looked up.
    pub dns: IpAddr,
    /// What cluster names end in.
    pub domain: String,
    /// The first and the last port that Services may have on every node.
    pub node_ports: (u16, u16),
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// By which address others reach it.
    pub advertise: IpAddr,
    /// Further names and addresses of it, for its certificate.
    #[serde(default)]
    pub names: Vec<String>,
    /// `embedded`, or `etcd://HOST:PORT,HOST:PORT`.
    pub store: String,
    /// To speak TLS with etcd; plain text without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_tls: Option<StoreTls>,
    /// How long nodes' certificates hold.
    #[serde(default = "ninety_days")]
    pub node_certificate_hours: f64,
    /// How long Events are kept.
    #[serde(default = "one_hour")]
    pub event_hours: f64,
}

/// `[server.store-tls]`: files to speak TLS with etcd with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StoreTls {
    /// Who signed its members' certificates.
    pub ca: PathBuf,
    /// Who servers are to it; both or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl StoreTls {
    fn files(&self) -> Result<TlsFiles> {
        let identity = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(Error::new(
                    "server.store-tls: expected both cert and key, or none of them; nothing was started",
                ));
            }
        };
        Ok(TlsFiles {
            authority: self.ca.clone(),
            identity,
        })
    }
}

/// How to speak TLS with etcd, as the command line has it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreTlsArguments {
    /// Speak TLS with etcd: who signed its members' certificates
    #[arg(long, value_name = "FILE")]
    pub store_ca: Option<PathBuf>,
    /// Who servers are to etcd
    #[arg(long, value_name = "FILE", requires_all = ["store_ca", "store_key"])]
    pub store_cert: Option<PathBuf>,
    /// The key of --store-cert
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    pub store_key: Option<PathBuf>,
}

impl StoreTlsArguments {
    /// The same in the words of `node.toml`, whatever the directory of who reads that.
    pub fn words(&self) -> Option<StoreTls> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(StoreTls {
            ca: self.store_ca.as_ref().map(absolute)?,
            cert: self.store_cert.as_ref().map(absolute),
            key: self.store_key.as_ref().map(absolute),
        })
    }
}

/// `[agent]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Agent {
    /// Where the server asks for logs and commands.
    pub port: u16,
    /// The runtime: `unix:///PATH`; the one in this process if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The most pods that may run here.
    pub max_pods: u32,
    /// Labels that the Node gets.
    pub labels: std::collections::BTreeMap<String, String>,
    /// When images that nobody uses are removed.
    #[serde(skip_serializing_if = "Images::is_usual")]
    pub images: Images,
    /// When a container's log begins a new file.
    #[serde(skip_serializing_if = "Logs::is_usual")]
    pub logs: Logs,
    /// What must be free on the node; pods go when there is less.
    #[serde(skip_serializing_if = "Pressure::is_usual")]
    pub pressure: Pressure,
}

/// `[agent.images]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Images {
    /// From this much of the images' file system in use on, in percent.
    pub high_percent: u8,
    /// Down to this much.
    pub low_percent: u8,
    /// Never one that was used or came this lately.
    pub unused_seconds: u64,
}

/// `[agent.logs]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Logs {
    /// From this size on.
    pub file_mib: u64,
    /// Files of one container.
    pub files: usize,
}

/// `[agent.pressure]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Pressure {
    /// Memory.
    pub memory_mib: u64,
    /// Space for pods' files, in percent.
    pub disk_percent: u8,
    /// Process ids, in percent.
    pub pid_percent: u8,
    /// How long the node says at least that it is short.
    pub holds_seconds: u64,
}

impl Default for Images {
    fn default() -> Images {
        let usual = ImageLimits::default();
        Images {
            high_percent: usual.high_percent,
            low_percent: usual.low_percent,
            unused_seconds: usual.unused_for.as_secs(),
        }
    }
}

impl Default for Logs {
    fn default() -> Logs {
        let usual = LogLimits::default();
        Logs {
            file_mib: usual.file_bytes >> 20,
            files: usual.files,
        }
    }
}

impl Default for Pressure {
    fn default() -> Pressure {
        let usual = settings::Pressure::default();
        Pressure {
            memory_mib: usual.memory_bytes >> 20,
            disk_percent: usual.disk_percent,
            pid_percent: usual.pid_percent,
            holds_seconds: usual.holds.as_secs(),
        }
    }
}

impl Images {
    fn is_usual(&self) -> bool {
        *self == Images::default()
    }

    /// What the agent is told.
    ///
    /// # Errors
    ///
    /// Limits that cannot be.
    pub fn limits(&self) -> Result<ImageLimits> {
        let (low, high) = (self.low_percent, self.high_percent);
        if low > high || high > 100 {
            return Err(Error::new(format!(
                "agent.images: expected low-percent <= high-percent <= 100, found {low} and {high}; \
                 nothing was started"
            )));
        }
        Ok(ImageLimits {
            high_percent: high,
            low_percent: low,
            unused_for: Duration::from_secs(self.unused_seconds),
        })
    }
}

impl Logs {
    fn is_usual(&self) -> bool {
        *self == Logs::default()
    }

    /// What the agent is told.
    ///
    /// # Errors
    ///
    /// Limits that cannot be.
    pub fn limits(&self) -> Result<LogLimits> {
        if self.file_mib == 0 || self.files < 2 {
            return Err(Error::new(format!(
                "agent.logs: expected file-mib of at least 1 and files of at least 2, found {} and {}; \
                 nothing was started",
                self.file_mib, self.files
            )));
        }
        Ok(LogLimits {
            file_bytes: mebibytes("agent.logs.file-mib", self.file_mib)?,
            files: self.files,
        })
    }
}

impl Pressure {
    fn is_usual(&self) -> bool {
        *self == Pressure::default()
    }

    /// What the agent is told.
    ///
    /// # Errors
    ///
    /// Limits that cannot be.
    pub fn limits(&self) -> Result<settings::Pressure> {
        for (name, percent) in [("disk", self.disk_percent), ("pid", self.pid_percent)] {
            if percent >= 100 {
                return Err(Error::new(format!(
                    "agent.pressure.{name}-percent: expected less than 100, found {percent}; \
                     nothing was started"
                )));
            }
        }
        Ok(settings::Pressure {
            memory_bytes: mebibytes("agent.pressure.memory-mib", self.memory_mib)?,
            disk_percent: self.disk_percent,
            pid_percent: self.pid_percent,
            holds: Duration::from_secs(self.holds_seconds),
        })
    }
}

/// `[network]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Network {
    /// The UDP port of the overlay; netd's own choice if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan_port: Option<u16>,
}

fn ninety_days() -> f64 {
    24.0 * 90.0
}

/// As long as Events are kept where nothing else is said.
pub fn one_hour() -> f64 {
    1.0
}

/// Hours as the file has them; at least a second of them.
fn hours(key: &str, hours: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(hours * 3600.0).ok();
    time.filter(|time| *time >= Duration::from_secs(1))
        .ok_or_else(|| {
            Error::new(format!(
                "{key}: expected hours, of which 0.001 are 3.6 seconds, found {hours}; nothing was started"
            ))
        })
}

/// Mebibytes as the file has them, in bytes.
fn mebibytes(key: &str, count: u64) -> Result<u64> {
    count.checked_mul(1 << 20).ok_or_else(|| {
        Error::new(format!(
            "{key}: expected mebibytes, found {count}, which no machine has; nothing was started"
        ))
    })
}

impl Default for Agent {
    fn default() -> Agent {
        Agent {
            port: 10250,
            runtime: None,
            max_pods: 110,
            labels: Default::default(),
            images: Images::default(),
            logs: Logs::default(),
            pressure: Pressure::default(),
        }
    }
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::from(ClusterLayout::default())
    }
}

impl From<ClusterLayout> for Layout {
    fn from(layout: ClusterLayout) -> Layout {
        Layout {
            pod_ranges: layout.pod_ranges,
            service_range: layout.service_range,
            dns: layout.dns,
            domain: layout.domain,
            node_ports: layout.node_ports,
        }
    }
}

impl NodeFile {
    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds a mistake, which is named.
    pub fn read(path: &Path) -> Result<Option<NodeFile>> {
        let Some(text) = files::read(path).context("read this node's configuration")? else {
            return Ok(None);
        };
        let file: NodeFile = toml::from_str(&text).map_err(|error| {
            Error::new(format!(
                "{}: {}; nothing was started",
                path.display(),
                error.to_string().trim_end()
            ))
        })?;
        // Before any part starts: a mistake in what the last one is told would end the others.
        let checked = file.check();
        checked.context(format!("read {}", path.display()))?;
        Ok(Some(file))
    }

    /// Tries everything that parts are told later.
    fn check(&self) -> Result<()> {
        self.agent.images.limits()?;
        self.agent.logs.limits()?;
        self.agent.pressure.limits()?;
        self.server_config(PathBuf::new()).map(drop)
    }

    /// Reads the file of a member.
    ///
    /// # Errors
    ///
    /// As [`NodeFile::read`]; there is none.
    pub fn expect(path: &Path) -> Result<NodeFile> {
        NodeFile::read(path)?.ok_or_else(|| {
            Error::new(format!(
                "this machine is in no cluster: there is no {}; begin with 'berth cluster init' or 'berth cluster join'",
                path.display()
            ))
        })
    }

    /// Writes the file whole.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self)
            .map_err(|error| Error::new(format!("write this node's configuration: {error}")))?;
        let text =
            format!("# What this machine is in its cluster. Read when its process starts.\n{text}");
        files::write(path, text.as_bytes()).context("write this node's configuration")
    }

    /// The layout in the words of those who join.
    pub fn layout(&self) -> ClusterLayout {
        ClusterLayout {
            servers: self.servers.clone(),
            pod_ranges: self.cluster.pod_ranges.clone(),
            service_range: self.cluster.service_range.clone(),
            dns: self.cluster.dns,
            domain: self.cluster.domain.clone(),
            node_ports: self.cluster.node_ports,
        }
    }

    /// What the server here is told, if there is one.
    ///
    /// # Errors
    ///
    /// `store` is none that is known.
    pub fn server_config(&self, directory: PathBuf) -> Result<Option<ServerConfig>> {
        let Some(server) = &self.server else {
            return Ok(None);
        };
        let mut config = ServerConfig::new(directory, server.advertise);
        config.listen = server.listen;
        config.names = server.names.clone();
        config.layout = self.layout();
        config.node_life = hours(
            "server.node-certificate-hours",
            server.node_certificate_hours,
        )?;
        config.event_life = hours("server.event-hours", server.event_hours)?;
        config.node = Some(self.name.clone());
        if let Some(members) = parse_store(&server.store)? {
            let tls = server.store_tls.as_ref().map(StoreTls::files).transpose()?;
            config.store = StorePlace::Etcd(EtcdPlace { members, tls });
        }
        Ok(Some(config))
    }
}

/// The members of an etcd; none for the store of this machine.
///
/// # Errors
///
/// Neither `embedded` nor `etcd://…`.
pub fn parse_store(text: &str) -> Result<Option<Vec<String>>> {
    if text == "embedded" {
        return Ok(None);
    }
    let members = text.strip_prefix("etcd://").map(|members| {
        let members = members.split(',').map(str::trim);
        members
            .filter(|member| !member.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    match members {
        Some(members) if !members.is_empty() => Ok(Some(members)),
        _ => Err(Error::new(format!(
            "store: expected 'embedded' or 'etcd://HOST:PORT,HOST:PORT', found {text:?}; nothing was started"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> NodeFile {
        NodeFile {
            name: "n1".to_owned(),
            address: [10, 0, 0, 1].into(),
            servers: vec![([10, 0, 0, 1], 6443).into()],
            cluster: Layout::default(),
            server: Some(Server {
                listen: ([0, 0, 0, 0], 6443).into(),
                advertise: [10, 0, 0, 1].into(),
                names: vec!["api.example".to_owned()],
                store: "etcd://a:2379,b:2379".to_owned(),
                store_tls: Some(StoreTls {
                    ca: "/etc/etcd/ca.crt".into(),
                    cert: Some("/etc/etcd/berth.crt".into()),
                    key: Some("/etc/etcd/berth.key".into()),
                }),
                node_certificate_hours: 1.5,
                event_hours: 0.5,
            }),
            agent: Agent::default(),
            network: Network::default(),
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/node.toml");
        assert_eq!(NodeFile::read(&path).unwrap(), None);
        file().write(&path).unwrap();
        assert_eq!(NodeFile::expect(&path).unwrap(), file());
        let config = file().server_config(directory.path().into()).unwrap();
        let config = config.unwrap();
        let members = ["a:2379", "b:2379"].map(str::to_owned).to_vec();
        let tls = Some(TlsFiles {
            authority: "/etc/etcd/ca.crt".into(),
            identity: Some(("/etc/etcd/berth.crt".into(), "/etc/etcd/berth.key".into())),
        });
        assert_eq!(config.store, StorePlace::Etcd(EtcdPlace { members, tls }));
        assert_eq!(config.node.as_deref(), Some("n1"));
        assert_eq!(config.node_life, Duration::from_mins(90));
        assert_eq!(config.event_life, Duration::from_mins(30));
    }

    #[test]
    fn limits_are_told_as_they_stand_in_the_file() {
        let agent: Agent = toml::from_str(
            "[images]\nhigh-percent = 70\nlow-percent = 60\nunused-seconds = 5\n\
             [logs]\nfile-mib = 3\nfiles = 4\n\
             [pressure]\nmemory-mib = 2\ndisk-percent = 20\npid-percent = 30\nholds-seconds = 7\n",
        )
        .unwrap();
        let images = ImageLimits {
            high_percent: 70,
            low_percent: 60,
            unused_for: Duration::from_secs(5),
        };
        let logs = LogLimits {
            file_bytes: 3 << 20,
            files: 4,
        };
        let pressure = settings::Pressure {
            memory_bytes: 2 << 20,
            disk_percent: 20,
            pid_percent: 30,
            holds: Duration::from_secs(7),
        };
        assert_eq!(agent.images.limits().unwrap(), images);
        assert_eq!(agent.logs.limits().unwrap(), logs);
        assert_eq!(agent.pressure.limits().unwrap(), pressure);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        let missing = NodeFile::expect(&path).unwrap_err().chain();
        assert!(missing.contains("berth cluster init"), "{missing}");
        std::fs::write(&path, "name = \"a\"\nadress = \"10.0.0.1\"\n").unwrap();
        let wrong = NodeFile::read(&path).unwrap_err().chain();
        assert!(
            wrong.contains("adress") && wrong.contains("node.toml"),
            "{wrong}"
        );
        for (section, key) in [
            (
                "agent.images]\nhigh-percent = 101",
                "low-percent <= high-percent",
            ),
            ("agent.images]\nlow-percent = 90", "found 90 and 85"),
            ("agent.images]\nhigh-percent = 300", "high-percent = 300"),
            ("agent.images]\nunused-seconds = -1", "unused-seconds = -1"),
            ("agent.images]\nunused = 1", "`unused`"),
            ("agent.logs]\nfile-mib = 0", "file-mib of at least 1"),
            ("agent.logs]\nfiles = 1", "files of at least 2"),
            (
                "agent.logs]\nfile-mib = 99999999999999",
                "agent.logs.file-mib",
            ),
            (
                "agent.pressure]\nmemory-mib = 99999999999999",
                "agent.pressure.memory-mib",
            ),
            (
                "agent.pressure]\ndisk-percent = 100",
                "agent.pressure.disk-percent",
            ),
            (
                "agent.pressure]\npid-percent = 100",
                "agent.pressure.pid-percent",
            ),
            (
                "agent.pressure]\nholds-seconds = 'x'",
                "holds-seconds = 'x'",
            ),
            (
                "server]\nlisten = '0.0.0.0:1'\nadvertise = '10.0.0.1'\nstore = 'x'",
                "store:",
            ),
            (
                "server]\nlisten = '0.0.0.0:1'\nadvertise = '10.0.0.1'\nstore = 'embedded'\nevent-hours = 0.0",
                "server.event-hours",
            ),
            (
                "server]\nlisten = '0.0.0.0:1'\nadvertise = '10.0.0.1'\nstore = 'embedded'\nnode-certificate-hours = -1.0",
                "server.node-certificate-hours",
            ),
        ] {
            let begin = "name = 'a'\naddress = '10.0.0.1'\nservers = []\n";
            std::fs::write(&path, format!("{begin}[{section}\n")).unwrap();
            let wrong = NodeFile::read(&path).unwrap_err().chain();
            let all = [key, "node.toml", "nothing was started"];
            assert!(
                all.iter().all(|word| wrong.contains(word)),
                "{key}: {wrong}"
            );
        }
        for store in ["", "redis://a", "etcd://", "etcd://,"] {
            assert!(parse_store(store).is_err(), "{store:?}");
        }
    }
}
