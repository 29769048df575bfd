//! What the server says, and how much of it. The level can change while it runs.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_cri::configuration::{self, LogFormat, keys::LEVELS};
use berth_cri::engine::error::Error as EngineError;
use berth_cri::server::admin::LogLevel;
use berth_cri::server::telemetry::traces::SpanLayer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::error::{Context, Error, Result};
use crate::settings::finer_filter;

/// The choice of what is said, to change it.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<String>>,
}

/// What `-v` means; nothing without it.
pub fn level_of(verbose: u8) -> Option<&'static str> {
    match verbose {
        0 => None,
        1 => Some("info"),
        2 => Some("debug"),
        _ => Some("trace"),
    }
}

/// Says things on standard error from now on, and gives spans to who sends them.
/// `BERTH_LOG` chooses finer, until the level is changed.
///
/// # Errors
///
/// Somebody else in this process listens already.
pub fn start(log: &configuration::Log, spans: Option<SpanLayer>) -> Result<Log> {
    let (chosen, level) = match finer_filter() {
        Some(finer) => {
            let words = finer.to_string();
            (finer, words)
        }
        None => (filter(&log.level)?, log.level.clone()),
    };
    let (filter, handle) = reload::Layer::new(chosen);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // A journal or a file shows colours as noise.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(spans.into_iter().chain([lines]).collect::<Vec<_>>())
        .try_init()
        .context("begin the log")?;
    Ok(Log {
        filter: handle,
        level: Arc::new(Mutex::new(level)),
    })
}

impl LogLevel for Log {
    fn level(&self) -> String {
        self.held().clone()
    }

    fn set_level(&self, level: &str) -> std::result::Result<String, EngineError> {
        let refused = |error: Error| EngineError::invalid(error.chain());
        let mut held = self.held();
        self.filter
            .reload(filter(level).map_err(refused)?)
            .map_err(|error| EngineError::invalid(error.to_string()))?;
        Ok(std::mem::replace(&mut *held, level.to_owned()))
    }
}

impl Log {
    fn held(&self) -> MutexGuard<'_, String> {
        // Whoever panicked has left a whole word behind.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said is chosen where the process was started: for a server that is a part of
/// another program.
#[derive(Debug, Clone, Copy)]
pub struct Fixed;

impl LogLevel for Fixed {
    fn level(&self) -> String {
        "info".to_owned()
    }

    fn set_level(&self, _level: &str) -> std::result::Result<String, EngineError> {
        Err(EngineError::invalid(
            "log level: this runtime is a part of a node's process; start that with -v or BERTH_LOG; nothing was changed",
        ))
    }
}

/// A level, with what the libraries say held back.
fn filter(level: &str) -> Result<EnvFilter> {
    if !LEVELS.contains(&level) {
        let known = LEVELS.join(", ");
        return Err(Error::new(format!(
            "log level: expected one of {known}, found {level:?}; nothing was changed"
        )));
    }
    let quiet = match level {
        "debug" | "trace" => ",hyper=info,hyper_util=info,h2=info,tower=info,rustls=info",
        _ => "",
    };
    EnvFilter::try_new(format!("{level}{quiet}")).context("read the log's level")
}
