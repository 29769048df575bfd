//! Members of etcd, each a process that a test may kill, stop and start again.
//!
//! etcd is Debian's. Each member has its data below a temporary directory and two ports of
//! 127.0.0.1 that were free, or is on a [`Host`] of its own. Members die with the thread that
//! started them, however the test ends.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::host::Host;
use crate::patience::stretched;

/// Members that know each other.
pub struct Etcd {
    directory: TempDir,
    members: Vec<Member>,
    tls: Option<Tls>,
}

/// Files to speak TLS with, PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Who signed.
    pub authority: PathBuf,
    /// The members' certificate, good for all their addresses, and its key.
    pub members: (PathBuf, PathBuf),
    /// The clients' certificate and its key.
    pub clients: (PathBuf, PathBuf),
}

struct Member {
    name: String,
    address: IpAddr,
    /// A process in whose namespaces it runs.
    inside: Option<u32>,
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts so many members, and waits until each serves.
    pub fn start(count: usize) -> Result<Etcd> {
        let ports = free_ports(2 * count)?;
        let member = |number: usize| Member {
            name: format!("member-{number}"),
            address: Ipv4Addr::LOCALHOST.into(),
            inside: None,
            client_port: ports[2 * number],
            peer_port: ports[2 * number + 1],
            process: None,
        };
        Etcd::serve((0..count).map(member).collect(), None)
    }

    /// Starts a member on each of these hosts, by the addresses under which they know each
    /// other; with TLS for clients, who must show the certificate, if files are given.
    pub fn start_on(hosts: &[(&Host, IpAddr)], tls: Option<Tls>) -> Result<Etcd> {
        let member = |(number, (host, address)): (usize, &(&Host, IpAddr))| Member {
            name: format!("member-{number}"),
            address: *address,
            inside: Some(host.pid()),
            client_port: 2379,
            peer_port: 2380,
            process: None,
        };
        Etcd::serve(hosts.iter().enumerate().map(member).collect(), tls)
    }

    fn serve(members: Vec<Member>, tls: Option<Tls>) -> Result<Etcd> {
        let count = members.len();
        let mut etcd = Etcd {
            directory: tempfile::tempdir()?,
            members,
            tls,
        };
        for number in 0..count {
            etcd.launch(number)?;
        }
        for number in 0..count {
            etcd.wait_until_it_serves(number)?;
        }
        Ok(etcd)
    }

    /// `HOST:PORT` of each member, as `etcd://` wants them.
    pub fn endpoints(&self) -> Vec<String> {
        let address = |member: &Member| format!("{}:{}", member.address, member.client_port);
        self.members.iter().map(address).collect()
    }

    fn client_url(&self, number: usize) -> String {
        let member = &self.members[number];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", member.address, member.client_port)
    }

    /// A program where a member runs.
    fn command(&self, number: usize, program: &str) -> Command {
        let Some(pid) = self.members[number].inside else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={pid}"));
        command.args(["--net", "--mount", "--", program]);
        command
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let mut process = self.members[number]
            .process
            .take()
            .context("it does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// A member that is there and answers nothing.
    pub fn freeze(&self, number: usize) -> Result<()> {
        Ok(kill(self.pid(number)?, Signal::SIGSTOP)?)
    }

    /// It goes on.
    pub fn thaw(&self, number: usize) -> Result<()> {
        Ok(kill(self.pid(number)?, Signal::SIGCONT)?)
    }

    /// Starts a member that was killed, and waits until it serves.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.launch(number)?;
        self.wait_until_it_serves(number)
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize> {
        for number in 0..self.members.len() {
            let status = self.etcdctl(number, &["endpoint", "status", "--write-out=fields"])?;
            let field = |name: &str| {
                let line = status
                    .lines()
                    .find(|line| line.starts_with(&format!("\"{name}\"")));
                line.and_then(|line| line.split(" : ").nth(1))
                    .map(str::to_owned)
            };
            if field("MemberID").is_some() && field("MemberID") == field("Leader") {
                return Ok(number);
            }
        }
        bail!("no member leads");
    }

    /// Runs `etcdctl` against one member, as an operator would.
    pub fn etcdctl(&self, number: usize, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(number, "etcdctl");
        if let Some(tls) = &self.tls {
            let file = |name: &str, path: &Path| format!("--{name}={}", path.display());
            command.args([
                file("cacert", &tls.authority),
                file("cert", &tls.clients.0),
                file("key", &tls.clients.1),
            ]);
        }
        let output = command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.client_url(number)))
            .args(arguments)
            .output()
            .context("etcdctl (Debian: etcd-client)")?;
        ensure!(
            output.status.success(),
            "etcdctl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn pid(&self, number: usize) -> Result<Pid> {
        let process = self.members[number]
            .process
            .as_ref()
            .context("it does not run")?;
        Ok(Pid::from_raw(i32::try_from(process.id())?))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory
            .path()
            .join(format!("{}.log", self.members[number].name))
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let peer = |member: &Member| format!("http://{}:{}", member.address, member.peer_port);
        let all = |member: &Member| format!("{}={}", member.name, peer(member));
        let all: Vec<String> = self.members.iter().map(all).collect();
        let member = &self.members[number];
        let (client_url, peer_url) = (self.client_url(number), peer(member));
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log(number))?;
        let mut command = self.command(number, "setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", &member.name]);
        if let Some(tls) = &self.tls {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&tls.authority)
                .arg("--cert-file")
                .arg(&tls.members.0)
                .arg("--key-file")
                .arg(&tls.members.1);
        }
        let process = command
            .arg("--data-dir")
            .arg(self.directory.path().join(&member.name))
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args([
                "--initial-cluster",
                &all.join(","),
                "--initial-cluster-state",
                "new",
            ])
            // A test wants the next leader soon; two cores are slow to answer under load.
            // Who comes back after a cut does not make the others choose anew (docs/store.md).
            .arg("--pre-vote")
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv etcd (Debian: etcd-server)")?;
        self.members[number].process = Some(process);
        Ok(())
    }

    fn wait_until_it_serves(&mut self, number: usize) -> Result<()> {
        let deadline = Instant::now() + stretched(Duration::from_secs(60));
        loop {
            if self.etcdctl(number, &["endpoint", "health"]).is_ok() {
                return Ok(());
            }
            let log = self.log(number);
            let process = self.members[number]
                .process
                .as_mut()
                .context("it does not run")?;
            if let Some(status) = process.try_wait()? {
                bail!("etcd ended: {status}\n{}", std::fs::read_to_string(log)?);
            }
            ensure!(
                Instant::now() < deadline,
                "etcd does not serve: {}",
                std::fs::read_to_string(log)?
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number).ok();
        }
    }
}

/// Ports that nobody listens on now. They are held until all are chosen.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}
