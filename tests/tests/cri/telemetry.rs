//! The server's own numbers, and its traces.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use berth_cri::v1;
use berth_tests::host::in_network_of;
use berth_tests::machine::Machine;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::world::{World, run_configured, run_on, socket};

/// Numbers by name and labels, as they stand in the text.
type Samples = BTreeMap<String, f64>;

/// Reads the text format strictly: each sample belongs to a family that was
/// announced with help and type.
fn parse(text: &str) -> Result<Samples> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helps: BTreeSet<&str> = BTreeSet::new();
    let mut samples = Samples::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, _) = help.split_once(' ').context("a name and its help")?;
            ensure!(helps.insert(name), "{name} is announced twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a name and its type")?;
            ensure!(helps.contains(name), "{name} has no help");
            types.insert(name, kind);
        } else {
            let (series, value) = line.rsplit_once(' ').context("a sample and its value")?;
            let name = series.split('{').next().unwrap_or(series);
            let kind = types.get(name).copied().or_else(|| {
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))?;
                types
                    .get(family)
                    .copied()
                    .filter(|kind| *kind == "histogram")
            });
            let kind = kind.with_context(|| format!("{line}: of no family"))?;
            ensure!(
                kind != "counter" || name.ends_with("_total"),
                "{name}: a counter's name ends in _total"
            );
            let value: f64 = value.parse().with_context(|| line.to_owned())?;
            let before = samples.insert(series.to_owned(), value);
            ensure!(before.is_none(), "{series} stands there twice");
        }
    }
    Ok(samples)
}

/// Prometheus' own judge, where the machine has it.
fn judge(text: &str) -> Result<()> {
    let judge = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut judge) = judge else { return Ok(()) };
    let mut stdin = judge.stdin.take().context("its input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    ensure!(judge.wait()?.success(), "promtool refuses:\n{text}");
    Ok(())
}

fn address(world: &mut World) -> Result<SocketAddr> {
    world.wait_for_log("metrics are on http://")?;
    let text = world.log_text();
    let (_, rest) = text
        .split_once("metrics are on http://")
        .context("it was said")?;
    let (address, _) = rest.split_once("/metrics").context("a path")?;
    Ok(address.parse()?)
}

fn scrape(world: &World, address: SocketAddr) -> Result<Samples> {
    let response = world.machine.host().get(address, "/metrics")?;
    ensure!(response.status == 200, "{response:?}");
    let text = String::from_utf8(response.body)?;
    judge(&text)?;
    parse(&text)
}

#[test]
fn the_server_counts_what_it_does() -> Result<()> {
    let text = "[metrics]\naddress = \"127.0.0.1:0\"\n";
    run_configured(text, async |mut world| {
        let address = address(&mut world)?;
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        let id = world.run_container(&pod, "main", "sleep 1000").await?;
        world.exec(&id, &["true"]).await?;
        ensure!(world.status("nothing").await.is_err());
        let samples = scrape(&world, address)?;
        let expect = |series: &str, value: f64| match samples.get(series) {
            Some(found) if *found == value => Ok(()),
            other => bail!("{series}: expected {value}, found {other:?} in {samples:#?}"),
        };
        let calls = |method: &str, code: &str| {
            format!("berth_cri_calls_total{{method=\"{method}\",code=\"{code}\"}}")
        };
        expect(&calls("RunPodSandbox", "OK"), 1.0)?;
        expect(&calls("ExecSync", "OK"), 1.0)?;
        expect(&calls("ContainerStatus", "NOT_FOUND"), 1.0)?;
        let took = "berth_cri_call_duration_seconds";
        expect(&format!("{took}_count{{method=\"ExecSync\"}}"), 1.0)?;
        expect(
            &format!("{took}_bucket{{method=\"ExecSync\",le=\"+Inf\"}}"),
            1.0,
        )?;
        expect("berth_cri_calls_in_flight", 0.0)?;
        expect("berth_pods{state=\"ready\"}", 1.0)?;
        expect("berth_containers{state=\"running\"}", 1.0)?;
        expect("berth_containers{state=\"exited\"}", 0.0)?;
        expect("berth_image_pulls_total{outcome=\"success\"}", 1.0)?;
        expect("berth_image_pull_duration_seconds_count", 1.0)?;
        ensure!(
            samples["berth_image_pulled_bytes_total"] > 100_000.0,
            "{samples:#?}"
        );
        expect("berth_streams_open{kind=\"exec\"}", 0.0)?;
        ensure!(
            samples["process_resident_memory_bytes"] > 1e6,
            "{samples:#?}"
        );
        ensure!(samples["process_open_fds"] > 5.0, "{samples:#?}");
        ensure!(
            samples["process_start_time_seconds"] > 1.7e9,
            "{samples:#?}"
        );
        world.remove_sandbox(&pod).await?;
        let samples = scrape(&world, address)?;
        ensure!(samples["berth_pods{state=\"ready\"}"] == 0.0);
        let other = world.machine.host().get(address, "/other")?;
        ensure!(other.status == 404, "{other:?}");
        Ok(world)
    })
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            for attribute in attributes {
                let text = format!("{}={:?}", attribute.key, attribute.value);
                self.services.lock().unwrap().insert(text);
            }
            for scope in resource.scope_spans {
                self.spans.lock().unwrap().extend(scope.spans);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Collectors that serve on loopback while the value lives.
struct Collectors(tokio::runtime::Runtime);

impl Collectors {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self(runtime))
    }

    /// Starts one inside of a machine.
    fn start(&self, machine: &Machine, mut server: Server) -> Result<(SocketAddr, Collector)> {
        let listener = in_network_of(machine.host().pid(), || {
            Ok(TcpListener::bind("127.0.0.1:0")?)
        })?;
        let address = listener.local_addr()?;
        let collector = Collector::default();
        let kept = collector.clone();
        self.0.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            server
                .add_service(TraceServiceServer::new(collector))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Ok((address, kept))
    }
}

#[test]
fn a_collector_behind_tls_gets_spans_only_from_who_trusts_it() -> Result<()> {
    let collectors = Collectors::new()?;
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let (pem, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let tls = || ServerTlsConfig::new().identity(Identity::from_pem(&pem, &key));
    for trusts in [true, false] {
        let machine = Machine::new()?;
        let server = Server::builder().tls_config(tls())?;
        let (address, kept) = collectors.start(&machine, server)?;
        let authority = machine.write("authority.pem", &pem)?;
        let mut text = format!("[traces]\nendpoint = \"https://{address}\"\n");
        if trusts {
            text.push_str(&format!("ca = \"{}\"\n", authority.display()));
        }
        run_on(machine, &text, async |mut world| {
            let pod = world.run_sandbox(world.sandbox("web")).await?;
            world.remove_sandbox(&pod).await?;
            Ok(world)
        })?;
        let spans = kept.spans.lock().unwrap();
        ensure!(spans.is_empty() != trusts, "trusts: {trusts}, {spans:#?}");
    }
    Ok(())
}

#[test]
fn an_authority_that_cannot_be_one_is_named_and_nothing_is_served() -> Result<()> {
    let machine = Machine::new()?;
    let none = machine.write("none.pem", "no certificate\n")?;
    let missing = none.with_file_name("missing.pem");
    for (scheme, ca, expected) in [
        ("https", &none, "expected certificates in PEM"),
        ("https", &missing, "No such file"),
        ("http", &none, "proves nothing of itself"),
    ] {
        let text = format!(
            "[traces]\nendpoint = \"{scheme}://127.0.0.1:4317\"\nca = \"{}\"\n",
            ca.display()
        );
        let file = machine.write("refused.toml", &text)?;
        let said = machine.berth_fails(1, &["cri", "--config", &file.to_string_lossy()])?;
        ensure!(
            said.contains("traces.ca") && said.contains(expected),
            "{said}"
        );
        ensure!(!socket(&machine).exists());
    }
    Ok(())
}

#[test]
fn spans_stand_below_the_callers_own() -> Result<()> {
    let machine = Machine::new()?;
    let collectors = Collectors::new()?;
    let (address, kept) = collectors.start(&machine, Server::builder())?;
    let text = format!("[traces]\nendpoint = \"http://{address}\"\n");
    run_on(machine, &text, async |mut world| {
        let mut request = Request::new(v1::VersionRequest::default());
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        request
            .metadata_mut()
            .insert("traceparent", parent.parse()?);
        world.runtime.version(request).await?;
        world.pull().await?;
        let pod = world.run_sandbox(world.sandbox("web")).await?;
        world.run_container(&pod, "main", "sleep 1000").await?;
        ensure!(world.status("nothing").await.is_err());
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })?;
    let spans = kept.spans.lock().unwrap();
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.with_context(|| format!("no span {name} in {spans:#?}"))
    };
    let hexadecimal = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let callers = spans
        .iter()
        .find(|span| hexadecimal(&span.trace_id) == "4bf92f3577b34da6a3ce929d0e0e4736");
    let version = callers.with_context(|| format!("no span of the caller's in {spans:#?}"))?;
    ensure!(version.name == "runtime.v1.RuntimeService/Version");
    ensure!(hexadecimal(&version.parent_span_id) == "00f067aa0ba902b7");
    let run = named("runtime.v1.RuntimeService/RunPodSandbox")?;
    for step in ["start the monitor", "attach the network"] {
        let step = named(step)?;
        ensure!(step.trace_id == run.trace_id && step.parent_span_id == run.span_id);
        ensure!(step.end_time_unix_nano <= run.end_time_unix_nano);
    }
    let create = named("runtime.v1.RuntimeService/CreateContainer")?;
    ensure!(named("mount the image")?.parent_span_id == create.span_id);
    let status = named("runtime.v1.RuntimeService/ContainerStatus")?;
    let code = status
        .attributes
        .iter()
        .find(|one| one.key == "rpc.grpc.status_code");
    ensure!(format!("{code:?}").contains("IntValue(5)"), "{status:?}");
    let services = kept.services.lock().unwrap();
    ensure!(
        services
            .iter()
            .any(|text| text.contains("service.name") && text.contains("berth-cri")),
        "{services:?}"
    );
    Ok(())
}
