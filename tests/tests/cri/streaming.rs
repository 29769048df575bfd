//! Exec, attach and port-forward through the endpoint of a `berth cri` that runs,
//! with a client of our own and, where `CRICTL` names one, with crictl.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_cri::v1::runtime_service_client::RuntimeServiceClient;
use berth_tests::machine::{LIMIT, Machine, Running};
use berth_tests::terminal::Terminal;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use self::client::{Client, request};

/// SPDY's client side.
#[path = "streaming/client.rs"]
mod client;

/// Answers on a port with what it is told, and copies its own input to its output.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
    - name: main
      image: busybox
      stdin: true
      command: [sh, -c, 'nc -ll -p 7777 -e cat & exec cat']
      readinessProbe: {tcpSocket: {port: 7777}, periodSeconds: 1}
";

const V4: &str = "v4.channel.k8s.io";

struct World {
    machine: Machine,
    pod: Running,
    server: std::process::Child,
    rpc: RuntimeServiceClient<Channel>,
    container: String,
    sandbox: String,
}

impl World {
    async fn new() -> Result<World> {
        World::of(POD).await
    }

    async fn of(manifest: &str) -> Result<World> {
        let machine = Machine::new()?;
        machine.write("pod.yaml", manifest)?;
        let mut pod = machine.start(&["run", "pod.yaml"])?;
        pod.wait_for("pod p is ready", LIMIT)?;
        let log = std::fs::File::create(machine.host().directory().join("cri.log"))?;
        let server = machine
            .command(&["cri"])
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()?;
        let socket = machine.host().run_dir().join("berth.sock");
        let deadline = Instant::now() + LIMIT;
        let mut rpc = loop {
            let endpoint =
                tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display()))?;
            match endpoint.connect().await {
                Ok(channel) => break RuntimeServiceClient::new(channel),
                Err(error) => ensure!(Instant::now() < deadline, "berth cri: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let listed = rpc
            .list_containers(v1::ListContainersRequest::default())
            .await?
            .into_inner();
        let container = listed.containers.first().context("a container")?.clone();
        Ok(World {
            machine,
            pod,
            server,
            rpc,
            container: container.id,
            sandbox: container.pod_sandbox_id,
        })
    }

    async fn exec(&mut self, script: &str, stdin: bool) -> Result<String> {
        let request = v1::ExecRequest {
            container_id: self.container.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin,
            stdout: true,
            stderr: true,
            ..v1::ExecRequest::default()
        };
        Ok(self.rpc.exec(request).await?.into_inner().url)
    }

    fn end(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.server.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGTERM)?;
        self.server.wait()?;
        self.pod.signal(Signal::SIGINT)?;
        self.pod.wait(LIMIT)?;
        self.machine.assert_clean()
    }
}

/// Whether a process with this word in its command line runs.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_s_streams_and_status_arrive_and_a_url_is_good_once() {
    let mut world = World::new().await.unwrap();
    let script = "cat; echo err >&2; exit 7";
    let url = world.exec(script, true).await.unwrap();
    let host = world.machine.host();
    let mut client = Client::spdy(host, &url, V4).await.unwrap();
    let error = client.open(&[("streamtype", "error")]).await.unwrap();
    let stdin = client.open(&[("streamtype", "stdin")]).await.unwrap();
    let stdout = client.open(&[("streamtype", "stdout")]).await.unwrap();
    let stderr = client.open(&[("streamtype", "stderr")]).await.unwrap();
    client.data(stdin, b"in\n", true).await.unwrap();
    let heard = client.hear().await.unwrap();
    assert_eq!(heard.text(stdout), "in\n");
    assert_eq!(heard.text(stderr), "err\n");
    let status: Value = serde_json::from_slice(heard.bytes(error)).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7", "{status}");
    drop(client);
    let head = "GET PATH HTTP/1.1\r\nHost: x\r\n\r\n";
    let (_, answer) = request(host, &url, head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    world.end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_come_back_as_they_were_sent() {
    let mut world = World::new().await.unwrap();
    let url = world.exec("cat", true).await.unwrap();
    let mut client = Client::spdy(world.machine.host(), &url, V4).await.unwrap();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.open(&[("streamtype", kind)]).await.unwrap();
    }
    let mut all = vec![0u8; 100 << 20];
    let mut state = 1u32;
    for byte in &mut all {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let sent = all.clone();
    let (mut sink, mut stream) = (client.sink, client.stream);
    let sending = tokio::spawn(async move {
        use berth_cri::server::streaming::spdy::frame::Frame;
        use futures::SinkExt;
        for piece in sent.chunks(100_000) {
            let bytes = piece.to_vec().into();
            let frame = Frame::Data {
                stream: 3,
                end: false,
                bytes,
            };
            sink.send(frame).await.unwrap();
        }
        let frame = Frame::Data {
            stream: 3,
            end: true,
            bytes: Vec::new().into(),
        };
        sink.send(frame).await.unwrap();
        sink
    });
    let heard = client::hear(&mut stream, None).await.unwrap();
    assert!(heard.bytes(5) == all, "{} bytes", heard.bytes(5).len());
    drop(sending.await.unwrap());
    world.end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_program_along() {
    let mut world = World::new().await.unwrap();
    let url = world
        .exec("echo up; exec sleep 54321", false)
        .await
        .unwrap();
    let mut client = Client::spdy(world.machine.host(), &url, V4).await.unwrap();
    for kind in ["error", "stdout", "stderr"] {
        client.open(&[("streamtype", kind)]).await.unwrap();
    }
    let deadline = Instant::now() + LIMIT;
    while !runs("54321") {
        assert!(Instant::now() < deadline, "it never ran");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(client);
    while runs("54321") {
        assert!(Instant::now() < deadline, "it runs on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_at_once_lose_nothing() {
    let mut world = World::new().await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..200 {
        let script = format!("seq 1 3000; echo {number}");
        let url = world.exec(&script, false).await.unwrap();
        let mut client = Client::spdy(world.machine.host(), &url, V4).await.unwrap();
        running.spawn(async move {
            for kind in ["error", "stdout", "stderr"] {
                client.open(&[("streamtype", kind)]).await.unwrap();
            }
            (number, client.hear().await.unwrap())
        });
    }
    let mut count = 0;
    for (number, heard) in running.join_all().await {
        let lines: String = (1..=3000).map(|line| format!("{line}\n")).collect();
        assert!(heard.text(3) == format!("{lines}{number}\n"));
        count += 1;
    }
    assert_eq!(count, 200);
    world.end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_carried_to_the_pod_s_loopback() {
    let mut world = World::new().await.unwrap();
    forward_ports(&mut world).await;
    world.end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_ids_of_its_own_is_reached_as_any_other() {
    let own = POD.replace(
        "spec:\n",
        "spec:\n  hostUsers: false\n  terminationGracePeriodSeconds: 1\n",
    );
    let mut world = World::of(&own).await.unwrap();
    forward_ports(&mut world).await;
    let request = v1::ExecRequest {
        container_id: world.container.clone(),
        cmd: ["sh", "-c", "stat -c '%u:%g' $(tty); id -u"]
            .map(str::to_owned)
            .to_vec(),
        tty: true,
        stdout: true,
        ..v1::ExecRequest::default()
    };
    let url = world.rpc.exec(request).await.unwrap().into_inner().url;
    let host = world.machine.host();
    let mut client = Client::spdy(host, &url, V4).await.unwrap();
    client.open(&[("streamtype", "error")]).await.unwrap();
    let stdout = client.open(&[("streamtype", "stdout")]).await.unwrap();
    client.open(&[("streamtype", "resize")]).await.unwrap();
    let heard = client.hear().await.unwrap();
    assert_eq!(heard.text(stdout), "0:5\r\n0\r\n", "{heard:?}");
    drop(client);
    let request = v1::AttachRequest {
        container_id: world.container.clone(),
        stdin: true,
        stdout: true,
        ..v1::AttachRequest::default()
    };
    let url = world.rpc.attach(request).await.unwrap().into_inner().url;
    let mut client = Client::spdy(host, &url, V4).await.unwrap();
    client.open(&[("streamtype", "error")]).await.unwrap();
    let stdin = client.open(&[("streamtype", "stdin")]).await.unwrap();
    let stdout = client.open(&[("streamtype", "stdout")]).await.unwrap();
    client.data(stdin, b"to its input\n", true).await.unwrap();
    client.hear_line(stdout, "to its input\n").await.unwrap();
    drop(client);
    world.end().unwrap();
}

async fn forward_ports(world: &mut World) {
    let request = v1::PortForwardRequest {
        pod_sandbox_id: world.sandbox.clone(),
        port: Vec::new(),
    };
    let url = world
        .rpc
        .port_forward(request)
        .await
        .unwrap()
        .into_inner()
        .url;
    let host = world.machine.host();
    let mut client = Client::spdy(host, &url, "portforward.k8s.io")
        .await
        .unwrap();
    for (request, port) in [("0", "7777"), ("1", "7777"), ("2", "1")] {
        let pairs = |kind| [("streamtype", kind), ("requestid", request), ("port", port)];
        let error = client.open(&pairs("error")).await.unwrap();
        let data = client.open(&pairs("data")).await.unwrap();
        client.data(data, b"hello", true).await.unwrap();
        if port == "1" {
            let heard = client.hear_until(error).await.unwrap();
            assert!(heard.text(error).contains("port 1"), "{heard:?}");
        } else {
            let heard = client.hear_until(data).await.unwrap();
            assert_eq!(heard.text(data), "hello");
        }
    }
}

/// As clients from before SPDY in WebSocket do it: the ports stand in the call,
/// and each has two channels, whose first message is the port's number.
#[tokio::test(flavor = "multi_thread")]
async fn ports_are_carried_over_plain_websocket() {
    let mut world = World::new().await.unwrap();
    let call = v1::PortForwardRequest {
        pod_sandbox_id: world.sandbox.clone(),
        port: vec![7777, 1],
    };
    let url = world.rpc.port_forward(call).await.unwrap().into_inner().url;
    let head = format!(
        "GET PATH HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {V4}\r\n\r\n"
    );
    let (mut stream, answer) = request(world.machine.host(), &url, &head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // One binary message for channel 0, masked by zeros (RFC 6455, section 5.2).
    let mut message = vec![0x82, 0x80 | 6, 0, 0, 0, 0, 0];
    message.extend(b"hello");
    stream.write_all(&message).await.unwrap();
    let mut heard = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let said = |text: &[u8], what: &str| String::from_utf8_lossy(text).contains(what);
    while !(said(&heard[0], "hello") && said(&heard[3], "port 1")) {
        let reading = server_message(&mut stream);
        let message = tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
        let (channel, bytes) = message.split_first().unwrap();
        heard[usize::from(*channel)].extend(bytes);
    }
    for (channel, port) in [(0, 7777u16), (1, 7777), (2, 1), (3, 1)] {
        assert!(heard[channel].starts_with(&port.to_le_bytes()), "{heard:?}");
    }
    drop(stream);
    world.end().unwrap();
}

/// One message of a server, which masks none; of at most 64 KiB.
async fn server_message(stream: &mut TcpStream) -> Result<Vec<u8>> {
    loop {
        let (kind, short) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = match short {
            126 => usize::from(stream.read_u16().await?),
            short => usize::from(short),
        };
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        // Pings and the like have no channel.
        if kind == 0x82 && !bytes.is_empty() {
            return Ok(bytes);
        }
        ensure!(kind != 0x88, "the server closes: {bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_the_call() {
    let mut world = World::new().await.unwrap();
    let good = v1::ExecRequest {
        container_id: world.container.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..v1::ExecRequest::default()
    };
    let terminal = v1::ExecRequest {
        tty: true,
        stderr: true,
        ..good.clone()
    };
    let nothing = v1::ExecRequest {
        cmd: Vec::new(),
        ..good.clone()
    };
    let nobody = v1::ExecRequest {
        container_id: "nobody".to_owned(),
        ..good
    };
    for (request, code) in [
        (terminal, tonic::Code::InvalidArgument),
        (nothing, tonic::Code::InvalidArgument),
        (nobody, tonic::Code::NotFound),
    ] {
        let status = world.rpc.exec(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    world.end().unwrap();
}

/// A shell's command with crictl's standard input; its output and status.
fn crictl(world: &World, program: &str, arguments: &[&str], input: &str) -> (String, i32) {
    use std::io::Write;
    let socket = world.machine.host().run_dir().join("berth.sock");
    let mut command: Command = world.machine.host().command(program);
    let mut child = command
        .arg(format!("--runtime-endpoint=unix://{}", socket.display()))
        .arg("--timeout=30s")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output.status.code().unwrap_or(-1))
}

fn on_a_terminal(world: &World, program: &str, arguments: &[&str]) {
    let host = world.machine.host();
    let socket = world.machine.host().run_dir().join("berth.sock");
    let mut words = host.command_line(program);
    words.push(format!("--runtime-endpoint=unix://{}", socket.display()));
    words.extend(
        arguments
            .iter()
            .chain(&["sh"])
            .map(|word| (*word).to_owned()),
    );
    let mut terminal = Terminal::run(&words, &host.command(program)).unwrap();
    terminal.wait_for("# ", LIMIT).unwrap();
    terminal.type_keys("stty size; echo $((40 + 2))\n").unwrap();
    terminal.wait_for("24 80", LIMIT).unwrap();
    terminal.wait_for("\n42\n", LIMIT).unwrap();
    terminal.resize(100, 30).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_keys("stty size\n").unwrap();
    terminal.wait_for("30 100", LIMIT).unwrap();
    terminal.type_keys("exit 0\n").unwrap();
    assert_eq!(terminal.wait(LIMIT).unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn crictl_speaks_to_it_by_both_transports() {
    let Ok(program) = std::env::var("CRICTL") else {
        eprintln!("CRICTL names no crictl: nothing was asked of one");
        return;
    };
    let world = World::new().await.unwrap();
    for transport in ["spdy", "websocket"] {
        let container = world.container.as_str();
        let exec = ["exec", "--transport", transport, "-i", container];
        let script = ["sh", "-c", "cat; echo out; exit 5"];
        let (text, code) = crictl(&world, &program, &[&exec[..], &script].concat(), "in\n");
        assert_eq!(text, "in\nout\n", "{transport}");
        assert_ne!(code, 0, "{transport}");
        on_a_terminal(
            &world,
            &program,
            &["exec", "--transport", transport, "-it", container],
        );
    }
    world.end().unwrap();
}
