//! Spans, sent to an OpenTelemetry collector.
//!
//! A span is a stretch of time with a name and a parent. A kubelet that traces
//! sends its own span's number with each call (`traceparent`, W3C Trace
//! Context), so that the server's work stands below the kubelet's.
//!
//! Spans are made by `tracing` under the target [`TARGET`]; without a collector
//! nobody is interested in it, and making one costs a comparison.

use std::path::Path;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

use crate::configuration::Traces;
use crate::engine::error::{Error, ErrorKind};

/// What all spans are made under.
pub const TARGET: &str = crate::engine::TRACE_TARGET;
/// How long the last spans may take on their way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends spans until it is ended.
#[derive(Debug)]
pub struct Sender {
    provider: SdkTracerProvider,
}

/// What the log's subscriber gives spans to.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Begins to send, where a collector is named. To be called inside of the
/// asynchronous runtime, which carries the connection.
///
/// # Errors
///
/// `Invalid` when the collector's address cannot be one, or who vouches for it cannot be
/// read. A collector that does not answer, or is not who it should be, is tried again
/// with every batch.
pub fn start(traces: &Traces) -> Result<Option<(Sender, SpanLayer)>, Error> {
    let Some(endpoint) = &traces.endpoint else {
        return Ok(None);
    };
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if let Some(tls) = tls_of(endpoint, traces.ca.as_deref())? {
        exporter = exporter.with_tls_config(tls);
    }
    let exporter = exporter.build().map_err(|error| {
        let text = format!("traces.endpoint: {endpoint}");
        Error::caused(ErrorKind::Invalid, text, error)
    })?;
    let resource = Resource::builder()
        .with_service_name("berth-cri")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let here = Sampler::TraceIdRatioBased(traces.sampling);
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(here)))
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("berth-cri"))
        .with_filter(Targets::new().with_target(TARGET, LevelFilter::DEBUG))
        .boxed();
    Ok(Some((Sender { provider }, layer)))
}

impl Sender {
    /// Sends what is left.
    pub async fn end(self) {
        let ending =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(PATIENCE));
        if let Ok(Err(error)) = ending.await {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
}

/// How a collector proves who it is; one at `http://` does not.
fn tls_of(endpoint: &str, ca: Option<&Path>) -> Result<Option<ClientTlsConfig>, Error> {
    let is_tls = endpoint.starts_with("https://");
    let Some(path) = ca else {
        return Ok(is_tls.then(|| ClientTlsConfig::new().with_native_roots()));
    };
    if !is_tls {
        return Err(Error::invalid(format!(
            "traces.ca: expected nothing, for {endpoint} proves nothing of itself (https:// does)"
        )));
    }
    let pem = std::fs::read(path).map_err(|error| {
        let text = format!("traces.ca: read {}", path.display());
        Error::caused(ErrorKind::Invalid, text, error)
    })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if certificates.is_ok_and(|found| !found.is_empty()) {
        let authority = Certificate::from_pem(pem);
        return Ok(Some(ClientTlsConfig::new().ca_certificate(authority)));
    }
    Err(Error::invalid(format!(
        "traces.ca: expected certificates in PEM, found none in {}",
        path.display()
    )))
}

/// The span of one call, below its caller's.
pub(super) fn span_of(service: &str, method: &str, headers: &HeaderMap) -> tracing::Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "call",
        otel.name = format!("{service}/{method}"),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        otel.status_code = Empty,
    );
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Refused where nobody listens any more: then nobody misses it.
        let _ = span.set_parent(parent);
    }
    span
}

/// Says how a call ended.
pub(super) fn end(span: &tracing::Span, code: Code) {
    span.record("rpc.grpc.status_code", code as i32);
    // What the caller did wrong is no error of the server's.
    let failed = matches!(
        code,
        Code::Unknown
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::DeadlineExceeded
    );
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
