//! The host's resolvers, for names that are not the cluster's.
//!
//! Their addresses come from the host's resolv.conf, which may change while we
//! run. Our own address among them would be a circle and is left out.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;

/// Answers that are kept at most.
const CACHE_SIZE: u64 = 10_000;

/// Asks the host's resolvers.
pub(super) struct Forwarder {
    resolv_conf: PathBuf,
    own: Vec<IpAddr>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    modified: Option<SystemTime>,
    resolver: Option<TokioResolver>,
}

/// What they said.
pub(super) struct Forwarded {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

impl Forwarder {
    pub(super) fn new(resolv_conf: PathBuf, own: Vec<IpAddr>) -> Self {
        Self {
            resolv_conf,
            own,
            current: Mutex::default(),
        }
    }

    /// Asks. Whatever goes wrong on the way is an answer, too: `SERVFAIL`.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Forwarded {
        let Some(resolver) = self.resolver() else {
            return failed(ResponseCode::ServFail);
        };
        match resolver.lookup(name.clone(), kind).await {
            Ok(found) => Forwarded {
                code: ResponseCode::NoError,
                answers: found.answers().to_vec(),
                authorities: Vec::new(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Forwarded {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none
                    .soa
                    .map(|soa| vec![(*soa).into_record_of_rdata()])
                    .unwrap_or_default(),
            },
            Err(error) => {
                tracing::debug!(%name, error = &error as &dyn std::error::Error, "forward");
                failed(ResponseCode::ServFail)
            }
        }
    }

    /// Reads the file anew when it has changed.
    fn resolver(&self) -> Option<TokioResolver> {
        let modified = fs::metadata(&self.resolv_conf)
            .and_then(|m| m.modified())
            .ok();
        let mut current = self.current.lock().ok()?;
        if current.resolver.is_none() || current.modified != modified {
            current.modified = modified;
            current.resolver = self.build();
        }
        current.resolver.clone()
    }

    fn build(&self) -> Option<TokioResolver> {
        let text = fs::read(&self.resolv_conf).ok()?;
        let (config, mut options) = parse_resolv_conf(text).ok()?;
        let (_, _, mut servers) = config.into_parts();
        servers.retain(|server| !self.own.contains(&server.ip));
        if servers.is_empty() {
            return None;
        }
        options.cache_size = CACHE_SIZE;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.timeout = Duration::from_secs(2);
        options.attempts = 1;
        // The search list is the client's affair.
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.build().ok()
    }
}

fn failed(code: ResponseCode) -> Forwarded {
    Forwarded {
        code,
        answers: Vec::new(),
        authorities: Vec::new(),
    }
}
