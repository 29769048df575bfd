//! Requests at a steady pace, and what became of each.
//!
//! One thread a target asks over a new connection each time, as browsers of many
//! people do: a connection that is kept open would hide that nobody listens any
//! more. An answer that does not come holds up its own target's thread only.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::host::{Host, in_network_of};
use crate::http::{self, Request};
use crate::patience::stretched;

/// How long a client waits for a connection, and for each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests that are being made.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    begun: Instant,
    workers: Vec<JoinHandle<Result<Vec<Attempt>>>>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Since the load began.
    pub at: Duration,
    /// Who was asked.
    pub target: SocketAddr,
    /// Until the answer was whole, or the client gave up.
    pub took: Duration,
    /// The page, or what went wrong.
    pub answer: Result<String, String>,
}

/// All requests of a load, in the order of their time.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One entry a request.
    pub attempts: Vec<Attempt>,
}

impl Load {
    /// Begins to ask each target for its page `/` from inside a host, with a pause
    /// after each answer.
    pub fn start(host: &Host, targets: &[SocketAddr], pause: Duration) -> Load {
        Load::start_in(host.pid(), targets, pause)
    }

    /// The same from inside the network of a process; our own's is this machine's.
    pub fn start_in(pid: u32, targets: &[SocketAddr], pause: Duration) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let worker = |target: &SocketAddr| {
            let (over, target) = (over.clone(), *target);
            std::thread::spawn(move || {
                in_network_of(pid, || {
                    let mut attempts = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        attempts.push(ask(begun, target));
                        std::thread::sleep(pause);
                    }
                    Ok(attempts)
                })
            })
        };
        let workers = targets.iter().map(worker).collect();
        Load {
            over,
            begun,
            workers,
        }
    }

    /// The time since the load began, to name a moment in its report.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Ends the load.
    ///
    /// # Errors
    ///
    /// The host has gone.
    pub fn stop(mut self) -> Result<Report> {
        self.over.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for worker in self.workers.drain(..) {
            attempts.extend(worker.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        attempts.sort_by_key(|attempt| attempt.at);
        Ok(Report { attempts })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// The requests of a stretch of time.
    pub fn between(&self, from: Duration, to: Duration) -> Report {
        let attempts = self.attempts.iter();
        Report {
            attempts: attempts
                .filter(|attempt| (from..to).contains(&attempt.at))
                .cloned()
                .collect(),
        }
    }

    /// Those that were not answered.
    pub fn failures(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.answer.is_err())
    }

    /// How often each page came.
    pub fn pages(&self) -> BTreeMap<&str, usize> {
        let mut pages = BTreeMap::new();
        for page in self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.answer.as_ref().ok())
        {
            *pages.entry(page.trim()).or_default() += 1;
        }
        pages
    }

    /// Asserts that requests were made, and that each was answered.
    ///
    /// # Errors
    ///
    /// What the first failures were.
    pub fn assert_all_answered(&self) -> Result<()> {
        ensure!(!self.attempts.is_empty(), "nothing was asked");
        let failures: Vec<&Attempt> = self.failures().collect();
        ensure!(
            failures.is_empty(),
            "{} of {} requests failed: {:#?}",
            failures.len(),
            self.attempts.len(),
            &failures[..failures.len().min(5)]
        );
        Ok(())
    }
}

fn ask(begun: Instant, target: SocketAddr) -> Attempt {
    let at = begun.elapsed();
    let request = Request {
        method: "GET",
        target: "/",
        ..Request::default()
    };
    let answer = TcpStream::connect_timeout(&target, stretched(PATIENCE))
        .map_err(anyhow::Error::from)
        .and_then(|stream| http::exchange_within(stretched(PATIENCE), stream, &request))
        .and_then(|response| {
            ensure!(response.status == 200, "status {}", response.status);
            Ok(response.text())
        })
        .map_err(|error| format!("{error:#}"));
    Attempt {
        at,
        target,
        took: begun.elapsed().saturating_sub(at),
        answer,
    }
}
