//! A machine whose pods' networks are made by plugins: those of the CNI project,
//! built from their Go module, and one of ours that fails on demand.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_tests::cni_plugins;
use berth_tests::host::{Host, write_program};
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;

use crate::world::{CONFIGURATION, World, within};

/// The file of the node's network.
const OWN: &str = "10-pods.conflist";
/// A file that counts before it.
pub const FIRST: &str = "05-first.conflist";
/// The bridge of the plugin `bridge`.
pub const BRIDGE: &str = "cnitest0";
/// Its addresses, which are the host's.
pub const GATEWAY: &str = "10.97.0.1";

/// How many seconds a plugin may take.
pub fn timeout() -> u64 {
    stretched(Duration::from_secs(4)).as_secs()
}

/// What a test sees of the plugins' side.
#[derive(Debug, Clone)]
pub struct Node {
    pub conf_dir: PathBuf,
    folder: PathBuf,
}

/// Runs a test on such a machine, with a server, and asserts that nothing is left.
pub fn run<F>(test: impl FnOnce(World, Node) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let machine = Machine::new()?;
    let node = Node::on(machine.host())?;
    let arguments = node.arguments()?;
    let world = runtime.block_on(async {
        let world = World::with_arguments(machine, arguments).await?;
        test(world, node.clone()).await
    })?;
    ensure!(node.leases()?.is_empty(), "addresses: {:?}", node.leases()?);
    ensure!(
        node.attachments(&world)?.is_empty(),
        "records: {:?}",
        node.attachments(&world)?
    );
    // What plugins keep for the next pod.
    let sweep = format!("ip link del {BRIDGE} 2>/dev/null; nft flush ruleset");
    in_host(world.machine.host(), &sweep)?;
    world.end()
}

impl Node {
    fn on(host: &Host) -> Result<Node> {
        let folder = host.work_dir().join("cni");
        let node = Node {
            conf_dir: folder.join("net.d"),
            folder,
        };
        fs::create_dir_all(node.folder.join("bin"))?;
        fs::create_dir(&node.conf_dir)?;
        let script = include_str!("fault.sh");
        let program = node.folder.join("bin/fault");
        write_program(&program, &script.replace("FOLDER", &node.text("")))?;
        node.configure(&node.network("1.1.0"))?;
        let file = host.work_dir().join(CONFIGURATION);
        fs::write(file, format!("[cni]\ntimeout = \"{}s\"\n", timeout()))?;
        Ok(node)
    }

    /// What the server is started with.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let bin_dirs = format!("{},{}", self.text("bin"), cni_plugins::build()?.display());
        let words = [
            "--cni-conf-dir",
            &self.text("net.d"),
            "--cni-bin-dir",
            &bin_dirs,
        ];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// A network with every plugin, dual stack; the one that fails comes last.
    pub fn network(&self, version: &str) -> String {
        let leases = self.text("leases");
        format!(
            r#"{{"cniVersion":"{version}","name":"pods","plugins":[
              {{"type":"bridge","bridge":"{BRIDGE}","isGateway":true,"ipMasq":true,
                "ipMasqBackend":"nftables","hairpinMode":true,
                "ipam":{{"type":"host-local","dataDir":"{leases}",
                  "ranges":[[{{"subnet":"10.97.0.0/24"}}],[{{"subnet":"fd97::/64"}}]],
                  "routes":[{{"dst":"0.0.0.0/0"}},{{"dst":"::/0"}}]}}}},
              {{"type":"portmap","backend":"nftables","capabilities":{{"portMappings":true}}}},
              {{"type":"bandwidth","capabilities":{{"bandwidth":true}}}},
              {{"type":"loopback"}},
              {{"type":"fault"}}]}}"#
        )
    }

    /// Puts a network into the directory as tools do: written aside, then renamed.
    pub fn configure(&self, text: &str) -> Result<()> {
        self.put(OWN, text)
    }

    /// The same with a network that counts instead of that one.
    pub fn configure_first(&self, text: &str) -> Result<()> {
        self.put(FIRST, text)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.folder.join("new");
        fs::write(&aside, text)?;
        Ok(fs::rename(aside, self.conf_dir.join(name))?)
    }

    /// How the last plugin answers a command from now on; `well` is as it should.
    pub fn answer(&self, command: &str, how: &str) -> Result<()> {
        Ok(fs::write(
            self.folder.join(format!("answer-{command}")),
            how,
        )?)
    }

    /// The calls of the last plugin so far: command, pod, namespace.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Addresses that host-local holds as given: which, and to whom.
    pub fn leases(&self) -> Result<Vec<(String, String)>> {
        let Ok(entries) = fs::read_dir(self.folder.join("leases/pods")) else {
            return Ok(Vec::new());
        };
        let mut leases = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with(|character: char| character.is_ascii_hexdigit()) {
                let holder = fs::read_to_string(&path)?;
                let holder = holder.lines().next().unwrap_or_default().trim().to_owned();
                leases.push((name, holder));
            }
        }
        leases.sort();
        Ok(leases)
    }

    /// Gives an address to a pod that never was.
    pub fn forge_lease(&self, address: &str) -> Result<()> {
        let path = self.folder.join("leases/pods").join(address);
        Ok(fs::write(path, "nobody\r\neth0")?)
    }

    /// The files of attachments that berth keeps.
    pub fn attachments(&self, world: &World) -> Result<Vec<String>> {
        let folder = world.machine.host().data_dir().join("net/cni");
        let names = fs::read_dir(folder)?.flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name != "store.lock").collect())
    }

    /// Waits until the plugin that hangs does.
    pub async fn wait_until_it_hangs(&self) -> Result<()> {
        let file = self.folder.join("hangs");
        until("the plugin hangs", async || Ok(file.exists())).await?;
        Ok(fs::remove_file(file)?)
    }

    fn text(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Asks until the answer is yes.
pub async fn until(what: &str, question: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    within(Duration::from_secs(20), what, question).await
}

/// What a shell's script in the host prints.
pub fn in_host(host: &Host, script: &str) -> Result<String> {
    let output = host.command("sh").args(["-c", script]).output()?;
    ensure!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
