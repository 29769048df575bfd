//! A server that is killed at any moment, while pods come and go.
//!
//! ```text
//! workers  run, create, start, exec, stop, remove ── each call again until a server answers
//! killer   start ▸ a moment by chance ▸ SIGKILL ▸ start ▸ …
//! steady   pods from before the first kill, which nothing may happen to
//! ```
//!
//! `BERTH_STORM_SEED` repeats a run's chances, `BERTH_STORM_KILLS` says how many
//! kills there are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_cri::v1;
use berth_tests::chance::{self, Chance};
use berth_tests::host::{Host, program};
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;
use berth_tests::sweep::Sweep;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::life::{Client, Life};
use crate::world::{IMAGE, World, socket};

/// A pod's whole life, by calls that are asked again when the server dies.
#[path = "restart/life.rs"]
mod life;

/// "Hundreds of times" (issue 5).
const KILLS: usize = 200;
/// Lives at once: enough that most kills hit several calls.
const WORKERS: usize = 3;

/// A server that can be killed, with what every one of its lives wrote.
struct Server {
    command: Command,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `berth`, this build's or another copy of it.
    fn start(machine: &Machine, berth: &Path) -> Result<Server> {
        let log = machine.host().directory().join("servers.log");
        let mut command = machine.host().command(berth);
        command.args(["cri", "--socket"]).arg(socket(machine));
        let child = spawn(&mut command, &log)?;
        Ok(Server {
            command,
            child,
            log,
        })
    }

    fn kill_and_start(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&mut self.command, &self.log)?;
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended in order in every test that went well.
        let _ = self.child.kill();
        let ended = self.child.wait();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("run berth cri")
}

/// What one machine's pods hold that a [`Sweep`] does not look into.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Pods that the network's ledger knows.
    pods: BTreeSet<String>,
    /// nftables' sets, maps and rules, without counts.
    rules: Vec<String>,
}

fn observe_held(host: &Host) -> Result<Held> {
    let mut pods = BTreeSet::new();
    for entry in fs::read_dir(host.data_dir().join("net"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            let ledger: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
            let networks = ledger["pods"].as_object().context("pods")?;
            for network in networks.values() {
                pods.extend(network.as_object().context("a network")?.keys().cloned());
            }
        }
    }
    let rules = host
        .command("nft")
        .args(["-s", "list", "ruleset"])
        .output()?;
    ensure!(rules.status.success(), "nft: {rules:?}");
    let mut rules: Vec<String> = String::from_utf8(rules.stdout)?
        .lines()
        .map(str::to_owned)
        .collect();
    // Elements of a set stand in no order.
    rules.sort();
    Ok(Held { pods, rules })
}

#[test]
fn servers_are_killed_and_pods_live_on() -> Result<()> {
    let seed = from_environment("BERTH_STORM_SEED")?.unwrap_or_else(chance::any_seed);
    let kills = from_environment("BERTH_STORM_KILLS")?.map_or(KILLS, |kills| kills as usize);
    println!("BERTH_STORM_SEED={seed} BERTH_STORM_KILLS={kills}");
    in_runtime(storm(seed, kills)).with_context(|| format!("BERTH_STORM_SEED={seed}"))
}

async fn storm(seed: u64, kills: usize) -> Result<()> {
    let machine = Machine::new()?;
    let berth = program("berth");
    let server = Server::start(&machine, &berth)?;
    let client = Client::of(&machine)?;
    client.pull(IMAGE).await?;
    let steady = [
        Steady::begin(&client, "steady-own-network", v1::NamespaceMode::Pod).await?,
        Steady::begin(&client, "steady-host-network", v1::NamespaceMode::Node).await?,
    ];
    // Both looks are taken without a server, which is not of the pods.
    server.end()?;
    let before = (
        Sweep::before(machine.host())?,
        observe_held(machine.host())?,
    );

    let mut server = Server::start(&machine, &berth)?;
    let over = Arc::new(AtomicBool::new(false));
    let lived = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (client, over, lived) = (client.clone(), over.clone(), lived.clone());
        let mut chance = Chance::new(seed ^ (worker as u64 + 1).wrapping_mul(0x9e37_79b9));
        workers.spawn(async move {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                let life = Life::by_chance(&format!("w{worker}-{round}"), &mut chance);
                let name = life.name().to_owned();
                client.live(life).await.with_context(|| name)?;
                lived.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
            anyhow::Ok(())
        });
    }
    let mut chance = Chance::new(seed);
    for _ in 0..kills {
        // One in four comes while a server still looks at what it finds, two
        // in the middle of its first calls, and one leaves it time for some.
        let moment = match chance.below(4) {
            0 => chance.below(60),
            which => {
                client.pods().await?;
                chance.below(if which == 1 { 1200 } else { 200 })
            }
        };
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if let Some(ended) = workers.try_join_next() {
            ended??;
            bail!("a worker ended before its time");
        }
        server.kill_and_start()?;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let lived = lived.load(Ordering::Relaxed);
    println!("{kills} servers were killed while {lived} pods came and went");
    ensure!(lived >= kills / 20, "only {lived} pods came and went");

    for steady in &steady {
        steady.assert_untouched(&client).await?;
    }
    let listed = client.pods().await?;
    ensure!(listed.len() == steady.len(), "pods are left: {listed:?}");
    server.end()?;
    before.0.assert_clean(machine.host())?;
    let held = observe_held(machine.host())?;
    ensure!(held == before.1, "before: {:?}\nafter: {held:?}", before.1);

    let server = Server::start(&machine, &berth)?;
    for steady in steady {
        client.remove_sandbox(&steady.pod).await?;
    }
    server.end()?;
    machine.assert_clean()
}

/// A pod that was there before the first kill.
struct Steady {
    pod: String,
    container: String,
    pid: String,
    started_at: i64,
    log: PathBuf,
}

impl Steady {
    async fn begin(client: &Client, name: &str, network: v1::NamespaceMode) -> Result<Steady> {
        let pod = client.run_sandbox(client.sandbox(name, network)).await?;
        // It waits by itself: a sleep would be another process at each look.
        let script = "mkfifo /never; exec 3<>/never; i=0; \
            while :; do echo $i; i=$((i+1)); read -t 0.02 -u 3 nothing; done";
        let config = client.container("counts", script);
        let container = client.create(&pod, config).await?;
        client.start(&container).await?;
        let (status, pid) = client.status_and_pid(&container).await?;
        // What it starts before it counts is over by then.
        let counts = || Ok(fs::read_to_string(&status.log_path)?.contains(" F 1\n"));
        until("it counts", counts).await?;
        Ok(Steady {
            pod,
            container,
            pid,
            started_at: status.started_at,
            log: status.log_path.into(),
        })
    }

    /// That the same process runs and that no line of its log is lost.
    async fn assert_untouched(&self, client: &Client) -> Result<()> {
        let (status, pid) = client.status_and_pid(&self.container).await?;
        ensure!(
            status.state == v1::ContainerState::ContainerRunning as i32
                && status.started_at == self.started_at
                && pid == self.pid,
            "it is not the one that was started: {status:?}, pid {pid}, was {}",
            self.pid
        );
        let (word, code) = client
            .exec(&self.container, &["echo", "there"])
            .await
            .context("exec")?;
        ensure!((word.as_str(), code) == ("there\n", 0), "{word:?}, {code}");
        let text = self.long_log().await?;
        for (number, line) in text.lines().enumerate() {
            let wanted = format!(" stdout F {number}");
            ensure!(line.ends_with(&wanted), "line {number} of the log: {line}");
        }
        Ok(())
    }

    /// The log, once it has grown to more than a few lines.
    async fn long_log(&self) -> Result<String> {
        let deadline = Instant::now() + stretched(Duration::from_secs(10));
        loop {
            let text = fs::read_to_string(&self.log)?;
            if text.lines().count() > 20 {
                return Ok(text);
            }
            ensure!(Instant::now() < deadline, "the log is short:\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn a_program_of_a_killed_client_is_ended() -> Result<()> {
    in_runtime(async {
        let machine = Machine::new()?;
        let mut server = Server::start(&machine, &program("berth"))?;
        let client = Client::of(&machine)?;
        client.pull(IMAGE).await?;
        let sandbox = client.sandbox("p", v1::NamespaceMode::Pod);
        let pod = client.run_sandbox(sandbox).await?;
        let id = client
            .create(&pod, client.container("main", "exec sleep 1000"))
            .await?;
        client.start(&id).await?;
        // One that is at work, and one whose runtime has only just begun.
        for patience_ms in [0, 1500] {
            let asked = {
                let mut runtime = client.runtime();
                let request = v1::ExecSyncRequest {
                    container_id: id.clone(),
                    cmd: vec!["sleep".into(), "777".into()],
                    timeout: 0,
                };
                tokio::spawn(async move { runtime.exec_sync(request).await })
            };
            let left = || -> Result<Vec<String>> {
                let names = fs::read_dir(machine.host().run_dir().join("pods").join(&pod))?
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .filter(|name| name.starts_with("exec-"));
                Ok(names.collect())
            };
            until("the exec begins", || Ok(!left()?.is_empty())).await?;
            tokio::time::sleep(Duration::from_millis(patience_ms)).await;
            server.kill_and_start()?;
            ensure!(asked.await?.is_err(), "its client was told");
            client.pods().await?;
            until("no program is left", || Ok(!sleeps(&machine)?)).await?;
            ensure!(left()?.is_empty(), "files are left: {:?}", left()?);
        }
        let (status, _) = client.status_and_pid(&id).await?;
        ensure!(status.state == v1::ContainerState::ContainerRunning as i32);
        client.remove_sandbox(&pod).await?;
        server.end()?;
        machine.assert_clean()
    })
}

fn sleeps(machine: &Machine) -> Result<bool> {
    let found = berth_tests::sweep::processes(machine.host())?;
    Ok(found.iter().any(|line| line.contains("sleep 777")))
}

#[test]
fn programs_are_replaced_below_running_pods() -> Result<()> {
    in_runtime(async {
        let machine = Machine::new()?;
        let old = copy_programs(&machine, "old")?;
        let server = Server::start(&machine, &old.join("berth"))?;
        let client = Client::of(&machine)?;
        client.pull(IMAGE).await?;
        let steady = Steady::begin(&client, "steady", v1::NamespaceMode::Pod).await?;
        let ended = client
            .create(&steady.pod, client.container("ended", "exit 9"))
            .await?;
        client.start(&ended).await?;
        client.wait_exited(&ended).await?;

        // In place: other files under the same names, while the old server runs.
        let again = copy_programs(&machine, "again")?;
        for name in ["berth", "berth-oci"] {
            fs::rename(again.join(name), old.join(name))?;
        }
        drop(server);
        let server = Server::start(&machine, &old.join("berth"))?;
        use_old_pod(&client, &steady, &ended, "replaced").await?;
        drop(server);

        // Elsewhere, and the old ones are gone.
        let new = copy_programs(&machine, "new")?;
        fs::remove_dir_all(&old)?;
        let server = Server::start(&machine, &new.join("berth"))?;
        use_old_pod(&client, &steady, &ended, "moved").await?;
        client.remove_sandbox(&steady.pod).await?;
        server.end()?;
        machine.assert_clean()
    })
}

/// Everything that is asked of a pod, of one that an older program made.
async fn use_old_pod(client: &Client, steady: &Steady, ended: &str, name: &str) -> Result<()> {
    steady.assert_untouched(client).await?;
    let (status, _) = client.status_and_pid(ended).await?;
    ensure!(status.exit_code == 9, "{status:?}");
    let limits = v1::UpdateContainerResourcesRequest {
        container_id: steady.container.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut runtime = client.runtime();
    runtime.update_container_resources(limits).await?;
    let reopen = v1::ReopenContainerLogRequest {
        container_id: steady.container.clone(),
    };
    runtime.reopen_container_log(reopen).await?;
    let id = client
        .create(&steady.pod, client.container(name, "exit 4"))
        .await?;
    client.start(&id).await?;
    ensure!(client.wait_exited(&id).await?.exit_code == 4);
    client.remove(&id).await?;
    let other = client.sandbox(name, v1::NamespaceMode::Pod);
    let other = client.run_sandbox(other).await?;
    client.remove_sandbox(&other).await
}

/// Copies of the two programs, in a folder of the machine.
fn copy_programs(machine: &Machine, folder: &str) -> Result<PathBuf> {
    let folder = machine.host().directory().join(folder);
    fs::create_dir(&folder)?;
    for name in ["berth", "berth-oci"] {
        fs::copy(program(name), folder.join(name))?;
    }
    Ok(folder)
}

#[test]
fn a_client_that_cancels_an_exec_ends_its_program() -> Result<()> {
    in_runtime(async {
        let mut world = World::on(Machine::new()?).await?;
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("p")).await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        let asked = {
            let mut runtime = world.runtime.clone();
            let request = v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: vec!["sleep".into(), "777".into()],
                timeout: 0,
            };
            tokio::spawn(async move { runtime.exec_sync(request).await })
        };
        until("it begins", || sleeps(&world.machine)).await?;
        // The call's stream is reset, as by a kubelet whose own caller went away.
        asked.abort();
        until("it ends", || Ok(!sleeps(&world.machine)?)).await?;
        let status = world.status(&id).await?;
        ensure!(status.state == v1::ContainerState::ContainerRunning as i32);
        world.remove_sandbox(&pod).await?;
        world.end()
    })
}

async fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + stretched(Duration::from_secs(20));
    while !holds()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn in_runtime(test: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(test)
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| name.to_owned())?)),
        Err(_) => Ok(None),
    }
}
