//! `berth logs`: what containers wrote.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cri::service::CriService;
use berth_cri::v1;
use clap::Args;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::amounts::read_moment;
use crate::error::{Context, Error, Result};
use crate::logs::print::{Printer, Style};
use crate::objects::{FoundPod, attempt, container_name, find_container, find_pod, observe_pods};
use crate::settings::Settings;
use berth_scheduler::pod::logs::follow::Follower;
use berth_scheduler::pod::logs::tail::find_tail;

/// The run of a container that follows one that ended.
mod restart;

/// `berth logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  berth logs web                       the pod's container, or all of them with names
  berth logs -f --tail 20 web -c nginx
  berth logs --since 10m --timestamps web
  berth logs -p web -c nginx           what the run before the last restart wrote")]
pub struct LogsArguments {
    /// A pod, POD/CONTAINER, or the beginning of a container's id
    pub target: String,
    /// One container of several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on until the container has ended for good, also over its restarts
    #[arg(short, long, conflicts_with = "previous")]
    pub follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", value_parser = read_lines, default_value = "all")]
    pub tail: Lines,
    /// Only what was written after a time, or that long ago
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// What the container's run before the last restart wrote
    #[arg(short, long)]
    pub previous: bool,
    /// Put the container's name before each line
    #[arg(long)]
    pub prefix: bool,
    /// Pods of the cluster
    #[command(flatten)]
    pub remote: super::remote::RemoteArguments,
}

/// How many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// All of them.
    All,
    /// The last ones.
    Last(usize),
}

fn read_lines(text: &str) -> std::result::Result<Lines, String> {
    match text {
        "all" | "-1" => Ok(Lines::All),
        _ => text
            .parse()
            .map(Lines::Last)
            .map_err(|_| "expected a number, or all".to_owned()),
    }
}

/// A container whose log is printed.
struct Source {
    name: String,
    id: String,
    path: PathBuf,
}

/// Prints the logs.
///
/// # Errors
///
/// No such container, or its log cannot be read.
pub async fn run(
    settings: &Settings,
    service: &dyn CriService,
    arguments: &LogsArguments,
) -> Result<u8> {
    let since = arguments
        .since
        .as_ref()
        .map(|text| {
            read_moment(text, Timestamp::now()).map_err(|why| Error::new(format!("--since: {why}")))
        })
        .transpose()?;
    let pods = observe_pods(service).await?;
    let sources = select(&pods, arguments)?;
    let mut style = Style {
        timestamps: arguments.timestamps,
        since,
        ..Style::default()
    };
    if sources.len() > 1 || arguments.prefix {
        style = style.with_names(sources.iter().map(|source| source.name.as_str()));
    }
    let mut printer = Printer::new(style);
    let mut followers = Vec::new();
    for source in sources {
        let mut follower = open(&source, arguments.tail)?;
        let entries = follower
            .read()
            .context(format!("read {}", source.path.display()))?;
        if print(&mut printer, &source.name, &entries)? == Reader::Gone {
            return Ok(0);
        }
        followers.push((source, follower));
    }
    if arguments.follow {
        follow(settings, service, printer, followers).await?;
    }
    Ok(0)
}

fn select(pods: &[FoundPod], arguments: &LogsArguments) -> Result<Vec<Source>> {
    let whole_pod = arguments.container.is_none()
        && find_pod(pods, &arguments.target).is_ok_and(|pod| pod.latest().len() > 1);
    if whole_pod {
        let pod = find_pod(pods, &arguments.target)?;
        return pod
            .latest()
            .into_iter()
            .filter_map(|container| chosen_attempt(pod, container, arguments.previous))
            .map(source_of)
            .collect();
    }
    let found = find_container(pods, &arguments.target, arguments.container.as_deref())?;
    let Some(container) = chosen_attempt(found.pod, found.container, arguments.previous) else {
        return Err(Error::new(format!(
            "container {} of pod {} was never restarted, or what it wrote before is gone",
            container_name(found.container),
            found.pod.title()
        )));
    };
    Ok(vec![source_of(container)?])
}

fn chosen_attempt<'a>(
    pod: &'a FoundPod,
    last: &'a v1::ContainerStatus,
    previous: bool,
) -> Option<&'a v1::ContainerStatus> {
    if !previous {
        return Some(last);
    }
    let same = pod
        .containers
        .iter()
        .filter(|other| container_name(other) == container_name(last));
    same.filter(|other| attempt(other) < attempt(last))
        .max_by_key(|other| attempt(other))
}

fn source_of(container: &v1::ContainerStatus) -> Result<Source> {
    let name = container_name(container).to_owned();
    if container.log_path.is_empty() {
        return Err(Error::new(format!(
            "container {name} has no log: its pod names no directory"
        )));
    }
    Ok(Source {
        name,
        id: container.id.clone(),
        path: PathBuf::from(&container.log_path),
    })
}

fn open(source: &Source, tail: Lines) -> Result<Follower> {
    let attempt = || format!("read {}", source.path.display());
    let mut follower = Follower::new(&source.path).context(attempt())?;
    if let Lines::Last(lines) = tail {
        follower.seek(tail_offset(&source.path, lines).context(attempt())?);
    }
    Ok(follower)
}

fn tail_offset(path: &Path, lines: usize) -> std::io::Result<u64> {
    match std::fs::File::open(path) {
        Ok(file) => find_tail(&file, lines),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether anybody reads what is printed.
#[derive(PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

fn print(printer: &mut Printer, name: &str, entries: &[Vec<u8>]) -> Result<Reader> {
    match printer.print(name, entries) {
        Ok(()) => Ok(Reader::There),
        // `berth logs web | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("write to standard output"),
    }
}

/// Prints what comes until every container has ended.
async fn follow(
    settings: &Settings,
    service: &dyn CriService,
    mut printer: Printer,
    followers: Vec<(Source, Follower)>,
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(String, Vec<Vec<u8>>)>(16);
    let reading = futures::future::try_join_all(followers.into_iter().map(|(source, follower)| {
        let sender = sender.clone();
        follow_one(settings, service, source, follower, sender)
    }));
    drop(sender);
    let printing = async {
        while let Some((name, entries)) = receiver.recv().await {
            if print(&mut printer, &name, &entries)? == Reader::Gone {
                return Ok(());
            }
        }
        Ok(())
    };
    tokio::pin!(reading, printing);
    tokio::select! {
        outcome = &mut printing => outcome,
        outcome = &mut reading => {
            outcome?;
            printing.await
        }
    }
}

async fn follow_one(
    settings: &Settings,
    service: &dyn CriService,
    mut source: Source,
    mut follower: Follower,
    sender: mpsc::Sender<(String, Vec<Vec<u8>>)>,
) -> Result<()> {
    loop {
        // Asked before reading: what is written up to its end is read below.
        let ended = has_ended(service, &source.id).await?;
        let entries = follower
            .read()
            .context(format!("read {}", source.path.display()))?;
        if !entries.is_empty() && sender.send((source.name.clone(), entries)).await.is_err() {
            return Ok(());
        }
        if let Some(exit_code) = ended {
            let Some(next) = restart::find_next(settings, service, &source.id, exit_code).await?
            else {
                return Ok(());
            };
            source = source_of(&next)?;
            follower = open(&source, Lines::All)?;
            continue;
        }
        let changed = tokio::time::timeout(Duration::from_millis(500), follower.changed()).await;
        if let Ok(outcome) = changed {
            outcome.context(format!("watch {}", source.path.display()))?;
        }
    }
}

/// The exit code of a container that has ended; 0 for one that is gone.
async fn has_ended(service: &dyn CriService, id: &str) -> Result<Option<i32>> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    match service.container_status(request).await {
        Ok(answer) => {
            let status = answer.status.unwrap_or_default();
            let ended = status.state() == v1::ContainerState::ContainerExited;
            Ok(ended.then_some(status.exit_code))
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(Some(0)),
        Err(status) => Err(status).context(format!("read container {id}")),
    }
}
