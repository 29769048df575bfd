//! A layer around every gRPC call: it is counted, timed, and traced.
//!
//! A gRPC call ends with its trailers, which come after the answer's body, or at
//! once with the headers where there is no body. So the body is watched to its
//! end; one that is dropped before was given up by the caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument as _;

use super::{Telemetry, traces};

/// Calls that last as long as their caller wants.
const ENDLESS: [&str; 1] = ["GetContainerEvents"];
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
/// Stands for every name that nobody serves.
const OTHER: &str = "other";

/// Puts [`Watched`] around a service.
#[derive(Debug, Clone)]
pub(in crate::server) struct WatchLayer {
    telemetry: Arc<Telemetry>,
}

impl WatchLayer {
    pub(in crate::server) fn new(telemetry: Arc<Telemetry>) -> WatchLayer {
        WatchLayer { telemetry }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched {
            inner,
            telemetry: self.telemetry.clone(),
        }
    }
}

/// A service whose calls are watched.
#[derive(Debug, Clone)]
pub(in crate::server) struct Watched<S> {
    inner: S,
    telemetry: Arc<Telemetry>,
}

impl<S, B, C> Service<Request<B>> for Watched<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    C: Body<Data = Bytes> + Unpin,
{
    type Response = Response<WatchedBody<C>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = Call::begin(self.telemetry.clone(), &request);
        let answer = self.inner.call(request).instrument(call.span.clone());
        Box::pin(async move {
            let response = answer.await?;
            call.read(response.headers());
            let (head, inner) = response.into_parts();
            Ok(Response::from_parts(head, WatchedBody { inner, call }))
        })
    }
}

/// One call, until it is dropped.
#[derive(Debug)]
struct Call {
    telemetry: Arc<Telemetry>,
    method: String,
    began: Instant,
    code: Option<Code>,
    span: tracing::Span,
}

impl Call {
    fn begin<B>(telemetry: Arc<Telemetry>, request: &Request<B>) -> Call {
        telemetry.calls.begin();
        let (service, method) = named(request.uri().path());
        Call {
            telemetry,
            method: method.to_owned(),
            began: Instant::now(),
            code: None,
            span: traces::span_of(service, method, request.headers()),
        }
    }

    fn read(&mut self, headers: &HeaderMap) {
        let Some(code) = headers.get(STATUS) else {
            return;
        };
        let code = Code::from_bytes(code.as_bytes());
        // A call of ours that is not served says why; tonic answers for a name
        // that it does not know, and says nothing.
        if code == Code::Unimplemented && !headers.contains_key(MESSAGE) {
            self.method = OTHER.to_owned();
        }
        self.code = Some(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let endless = ENDLESS.contains(&self.method.as_str());
        let took = (!endless).then(|| self.began.elapsed());
        traces::end(&self.span, code);
        self.telemetry.calls.end(&self.method, name_of(code), took);
    }
}

/// `/runtime.v1.RuntimeService/Version`. Whoever asks for what is not there must
/// not grow the list of names: this sorts out what cannot be a call, and
/// [`Call::read`] what turns out to be none.
fn named(path: &str) -> (&str, &str) {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let word = |text: &str| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    match parts {
        Some((service, method)) if service.starts_with("runtime.v1.") && word(method) => {
            (service, method)
        }
        Some((service, method)) if service.starts_with("berth.") && word(method) => {
            (service, method)
        }
        _ => ("", OTHER),
    }
}

/// The names of gRPC's own documents.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// An answer's body, watched to its end.
#[derive(Debug)]
pub(in crate::server) struct WatchedBody<C> {
    inner: C,
    call: Call,
}

impl<C: Body<Data = Bytes> + Unpin> Body for WatchedBody<C> {
    type Data = Bytes;
    type Error = C::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, C::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.read(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_paths_share_one_name() {
        assert_eq!(
            named("/runtime.v1.RuntimeService/Version"),
            ("runtime.v1.RuntimeService", "Version")
        );
        for strange in ["/x/y", "/runtime.v1.RuntimeService/a b", "", "/"] {
            assert_eq!(named(strange).1, "other", "{strange}");
        }
    }

    #[test]
    fn a_call_that_nobody_serves_has_no_name_of_its_own() {
        let counted = |method: &str, message: Option<&str>| {
            let path = format!("/runtime.v1.RuntimeService/{method}");
            let request = Request::builder().uri(path).body(()).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, http::HeaderValue::from_static("12"));
            if let Some(message) = message {
                headers.insert(MESSAGE, http::HeaderValue::from_str(message).unwrap());
            }
            let telemetry = Arc::<Telemetry>::default();
            let mut call = Call::begin(telemetry.clone(), &request);
            call.read(&headers);
            drop(call);
            telemetry.calls.read().into_keys().next().unwrap()
        };
        assert_eq!(
            counted("Nonsense", None),
            (OTHER.to_owned(), "UNIMPLEMENTED")
        );
        let ours = counted("CheckpointContainer", Some("is not served"));
        assert_eq!(ours, ("CheckpointContainer".to_owned(), "UNIMPLEMENTED"));
    }
}
