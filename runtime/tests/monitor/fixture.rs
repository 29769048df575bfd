//! A pod with its monitor, in a place that is thrown away.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_runtime::monitor::client::{self, Client};
use berth_runtime::monitor::frames::{append_frames, read_frame};
use berth_runtime::monitor::protocol::{
    CONFIG_NAME, CreateContainer, Event, ExitRecord, FailureKind, FrameKind, MonitorConfig,
    PodNamespace, Reply, Request,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A pod's directory and, once started, its monitor.
pub struct Pod {
    folder: tempfile::TempDir,
    pub dir: PathBuf,
    pub config: MonitorConfig,
    pub cgroup: String,
    started: bool,
}

/// What a container is made from.
pub struct Recipe<'a> {
    pub script: &'a str,
    pub terminal: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub change: fn(&mut Value),
}

impl<'a> Recipe<'a> {
    pub fn new(script: &'a str) -> Recipe<'a> {
        Recipe {
            script,
            terminal: false,
            stdin: false,
            stdin_once: false,
            change: |_| {},
        }
    }
}

impl Pod {
    /// A pod without namespaces of its own.
    pub fn new() -> Pod {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        // Of this thread alone, and of the processes that it starts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new()
            .prefix("monitor-")
            .tempdir()
            .unwrap();
        let dir = folder.path().join("pod");
        fs::create_dir(&dir).unwrap();
        let mut runtime: PathBuf = std::env::var_os("RUNTIME_UNDER_TEST")
            .unwrap_or_else(|| "runc".into())
            .into();
        if runtime == Path::new("berth-oci") {
            runtime = env!("CARGO_BIN_EXE_berth-oci").into();
        }
        let config = MonitorConfig {
            id_mappings: None,
            pod_id: "pod".into(),
            hostname: None,
            namespaces: Vec::new(),
            sysctls: Default::default(),
            cgroup: None,
            oci_runtime: runtime,
            oci_root: folder.path().join("oci"),
            oci_arguments: Vec::new(),
        };
        Pod {
            dir,
            config,
            cgroup: format!("/monitor-test-{}-{number}", std::process::id()),
            folder,
            started: false,
        }
    }

    /// A pod whose monitor listens.
    pub fn started() -> Pod {
        let mut pod = Pod::new();
        pod.start();
        pod
    }

    pub fn start(&mut self) {
        let output = self.try_start();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "monitor: {words}");
        self.started = true;
    }

    /// Runs `berth-oci monitor` and returns what it said.
    pub fn try_start(&self) -> Output {
        self.write_config();
        self.run_monitor()
    }

    pub fn write_config(&self) {
        let text = serde_json::to_vec(&self.config).unwrap();
        fs::write(self.dir.join(CONFIG_NAME), text).unwrap();
    }

    pub fn run_monitor(&self) -> Output {
        // The shipped build can be measured with the same tests.
        let program = std::env::var("MONITOR_UNDER_TEST")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_berth-oci").to_owned());
        Command::new("timeout")
            .args(["20", &program, "monitor"])
            .arg(&self.dir)
            .output()
            .unwrap()
    }

    pub fn client(&self) -> Client {
        client::connect(&self.dir).unwrap()
    }

    pub fn call(&self, request: &Request) -> Reply {
        let client = self.client();
        call_within(client, request)
    }

    /// A call that must be answered with `Done`.
    pub fn done(&self, request: &Request) {
        assert_eq!(self.call(request), Reply::Done, "{request:?}");
    }

    /// A call that must fail.
    pub fn refused(&self, request: &Request) -> (FailureKind, String) {
        match self.call(request) {
            Reply::Failed { kind, message } => (kind, message),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    pub fn create(&self, id: &str, recipe: &Recipe<'_>) -> i32 {
        match self.try_create(id, recipe) {
            Reply::Created { pid } => pid,
            other => panic!("create {id}: {other:?}"),
        }
    }

    pub fn try_create(&self, id: &str, recipe: &Recipe<'_>) -> Reply {
        let bundle = self.bundle(id, recipe);
        self.call(&Request::Create(CreateContainer {
            id: id.into(),
            bundle,
            log_path: Some(self.log_path(id)),
            terminal: recipe.terminal,
            stdin: recipe.stdin,
            stdin_once: recipe.stdin_once,
        }))
    }

    /// Creates, starts, and waits for the end.
    pub fn run(&self, id: &str, recipe: &Recipe<'_>) -> ExitRecord {
        self.create(id, recipe);
        self.done(&Request::Start { id: id.into() });
        self.wait(id)
    }

    pub fn wait(&self, id: &str) -> ExitRecord {
        match self.call(&Request::Wait { id: id.into() }) {
            Reply::Exited(record) => record,
            other => panic!("wait {id}: {other:?}"),
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.log"))
    }

    /// The log's lines without their times, which are checked.
    pub fn log(&self, id: &str) -> Vec<String> {
        read_log(&self.log_path(id))
    }

    pub fn attach(&self, id: &str) -> Attachment {
        let mut client = self.client();
        let reply = client.call(&Request::Attach { id: id.into() }).unwrap();
        assert_eq!(reply, Reply::Done);
        let stream = client.into_stream();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Attachment {
            stream,
            input: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub fn subscribe(&self) -> Events {
        let mut client = self.client();
        assert_eq!(client.call(&Request::Subscribe).unwrap(), Reply::Done);
        let stream = client.into_stream();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Events(BufReader::new(stream))
    }

    /// The monitor's process, found by its socket's owner.
    pub fn monitor_pid(&self) -> i32 {
        let stream = self.client().into_stream();
        let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
        peer.pid.as_raw_nonzero().get()
    }

    pub fn shutdown(&mut self) {
        self.done(&Request::Shutdown);
        self.started = false;
    }

    /// Asserts that nothing of pod and containers is left on the machine.
    pub fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != CONFIG_NAME && name != "exits")
            .collect();
        assert_eq!(left, Vec::<String>::new(), "left in the pod's directory");
        // Of this thread: the process's first one has another namespace.
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = self.folder.path().to_str().unwrap();
        assert!(!mounts.contains(place), "mounts are left: {mounts}");
        if let Ok(entries) = fs::read_dir(&self.config.oci_root) {
            assert_eq!(entries.count(), 0, "containers of the runtime are left");
        }
    }

    /// A bundle with a static busybox as its only program.
    fn bundle(&self, id: &str, recipe: &Recipe<'_>) -> PathBuf {
        let bundle = self.folder.path().join(format!("bundle-{id}"));
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for folder in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(bundle.join("rootfs").join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in [
            "sh", "ls", "cat", "head", "sleep", "stty", "tr", "yes", "wc", "touch", "hostname",
            "ps", "dd",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": recipe.terminal,
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", recipe.script],
                "env": ["PATH=/bin", "TERM=xterm"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": false},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                               {"type": "network"}],
            },
        });
        (recipe.change)(&mut config);
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            // A recipe says "pod" where the pod's pin is meant.
            if namespace["path"] == "pod" {
                let kind = namespace["type"].as_str().unwrap();
                let name = if kind == "network" { "net" } else { kind };
                namespace["path"] = json!(self.dir.join("ns").join(name));
            }
        }
        let text = serde_json::to_vec(&config).unwrap();
        fs::write(bundle.join("config.json"), text).unwrap();
        bundle
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.started
            && let Ok(mut client) = client::connect(&self.dir)
        {
            let _ = client.call(&Request::Shutdown);
        }
        let log = self.dir.join("monitor.log");
        if let Ok(text) = fs::read_to_string(log) {
            eprintln!("monitor's own log: {text}");
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let parent = hierarchy.unwrap().path().join(&self.cgroup[1..]);
            if parent.exists()
                && let Err(error) = remove_groups(&parent)
            {
                eprintln!("{}: {error}", parent.display());
            }
        }
    }
}

fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_groups(&path)?;
        }
    }
    fs::remove_dir(group)
}

/// Fails the test, instead of hanging it, when no reply comes.
pub fn call_within(mut client: Client, request: &Request) -> Reply {
    let (sender, receiver) = std::sync::mpsc::channel();
    let asked = request.clone();
    std::thread::spawn(move || sender.send(client.call(&asked)));
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("no reply to {request:?}"))
        .unwrap()
}

pub fn read_log(path: &Path) -> Vec<String> {
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    // Unlike lines(), this keeps the carriage returns of a terminal.
    text.split_terminator('\n')
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(time.len(), 30, "{line}");
            assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
            rest.to_owned()
        })
        .collect()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An attached connection.
pub struct Attachment {
    pub stream: UnixStream,
    input: Vec<u8>,
    /// All output so far: stream and bytes.
    pub seen: Vec<(FrameKind, u8)>,
}

impl Attachment {
    pub fn send(&mut self, kind: FrameKind, payload: &[u8]) {
        let mut wire = Vec::new();
        append_frames(&mut wire, kind, payload);
        self.stream.write_all(&wire).unwrap();
    }

    /// Reads more; false at the end.
    pub fn read(&mut self) -> bool {
        let mut piece = [0; 65536];
        let length = self.stream.read(&mut piece).unwrap();
        self.input.extend_from_slice(&piece[..length]);
        while let Some(frame) = read_frame(&self.input).unwrap() {
            let kind = frame.kind;
            self.seen
                .extend(frame.payload.iter().map(|byte| (kind, *byte)));
            let length = frame.wire_bytes();
            self.input.drain(..length);
        }
        length > 0
    }

    pub fn read_until(&mut self, text: &str) {
        while !self.text().contains(text) {
            assert!(self.read(), "ended before {text:?}: {:?}", self.text());
        }
    }

    pub fn read_to_end(&mut self) -> String {
        while self.read() {}
        self.text()
    }

    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.seen.iter().map(|(_, byte)| *byte).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn text_of(&self, kind: FrameKind) -> String {
        let bytes = self.seen.iter().filter(|(found, _)| *found == kind);
        String::from_utf8(bytes.map(|(_, byte)| *byte).collect()).unwrap()
    }
}

/// A subscription.
pub struct Events(BufReader<UnixStream>);

impl Events {
    pub fn next(&mut self) -> Event {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

/// The namespaces of a container that lives in the pod's.
pub fn join_pod(config: &mut Value) {
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] != "mount" {
            namespace["path"] = json!("pod");
        }
    }
}

pub const ALL_NAMESPACES: [PodNamespace; 4] = [
    PodNamespace::Net,
    PodNamespace::Ipc,
    PodNamespace::Uts,
    PodNamespace::Pid,
];
