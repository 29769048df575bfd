//! `berth run`: a pod from a manifest, or from an image with docker's flags.

/// Looking after one pod.
pub mod attend;
/// Who is told how a run goes.
pub mod audience;
/// All that one run runs.
pub mod crew;
/// In the background.
pub mod detached;
/// The flags.
pub mod flags;
/// While a person watches.
pub mod foreground;
/// The pods of a Job, one after the other or side by side.
pub mod jobs;
/// What a person sees of the calls between a worker and its node.
pub mod lookout;
/// What a pod's status means.
pub mod outcome;
/// Ports of this machine.
pub mod ports;
/// Where manifests come from: files, URLs, standard input.
pub mod source;
/// An image and flags as the Pod that they stand for.
pub mod translate;
/// The node as a worker sees it, with somebody who looks on.
pub mod watched;

use std::collections::BTreeMap;

use berth_scheduler::manifest::{Manifests, read_manifests};
use berth_scheduler::pod::templates::deployment_pods;
use k8s_openapi::api::core::v1::Pod;

use crate::error::{Context, ENGINE_FAILED, Error, Result};
use crate::node;
use crate::output::{Format, print_json, print_line, print_yaml};
use crate::settings::Settings;
use crate::terminal;
use flags::RunArguments;
use translate::Surroundings;

/// Runs what the words mean.
///
/// # Errors
///
/// With exit code 125 when berth failed before a container's program ran.
pub fn run(settings: &Settings, arguments: &RunArguments) -> Result<u8> {
    let request = read_request(arguments).map_err(|error| error.with_exit_code(ENGINE_FAILED))?;
    if !arguments.quiet {
        for warning in &request.manifests.warnings {
            eprintln!("warning: {warning}");
        }
    }
    if arguments.dry_run {
        return print_objects(settings.format, &request.manifests);
    }
    if arguments.detach {
        return node::block_on(detached::run(settings, arguments, request));
    }
    if arguments.image.tty
        && arguments.image.interactive
        && let Some(reason) = terminal::why_not_interactive()
    {
        return Err(Error::new(reason).with_exit_code(ENGINE_FAILED));
    }
    node::block_on(foreground::run(settings, arguments, request))
}

/// The pods of a request, those of deployments included.
///
/// # Errors
///
/// Two of them would take the same port of this machine.
pub fn pods(manifests: &Manifests) -> Result<Vec<Pod>> {
    let of_deployments = manifests.deployments.iter().flat_map(deployment_pods);
    let pods: Vec<Pod> = manifests
        .pods
        .iter()
        .cloned()
        .chain(of_deployments)
        .collect();
    match ports::port_conflict(&pods) {
        None => Ok(pods),
        Some(port) => Err(Error::new(format!(
            "port {port} of this machine would lead to two pods; nothing was run"
        ))
        .with_exit_code(ENGINE_FAILED)),
    }
}

/// What is to be run.
#[derive(Debug)]
pub struct Request {
    /// The objects.
    pub manifests: Manifests,
    /// They stand for an image and flags, so there is one pod of one container.
    pub from_image: bool,
}

/// Reads every manifest, or translates the flags.
///
/// # Errors
///
/// All mistakes of the manifests, or the flag that is not understood.
pub fn read_request(arguments: &RunArguments) -> Result<Request> {
    let first = arguments.words.first().map(String::as_str);
    let image = match first {
        Some(word) if arguments.filenames.is_empty() => !source::is_manifest(word),
        Some(_) => {
            return Err(Error::new(
                "-f and a manifest or image beside it: expected every manifest behind an -f",
            ));
        }
        None if arguments.filenames.is_empty() => {
            return Err(Error::new(
                "nothing to run: expected a manifest or an image",
            ));
        }
        None => false,
    };
    if image {
        let manifests = translate_image(arguments)?;
        return Ok(Request {
            manifests,
            from_image: true,
        });
    }
    flags::refuse_image_flags(&arguments.image)?;
    let names = match first {
        Some(_) => &arguments.words,
        None => &arguments.filenames,
    };
    let mut manifests = Manifests::default();
    let mut mistakes = Vec::new();
    for name in names {
        let (text, title) = source::read(name)?;
        match read_manifests(&text, &title) {
            Ok(more) => manifests.append(more),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    // As an API server does: a uid names one run of a pod, and directories here,
    // so that no manifest can choose it; and a status is what happened to another run.
    for pod in &mut manifests.pods {
        pod.metadata.uid = None;
        pod.status = None;
    }
    if mistakes.is_empty() {
        return Ok(Request {
            manifests,
            from_image: false,
        });
    }
    Err(Error::new(format!(
        "nothing was run:\n{}",
        mistakes.join("\n")
    )))
}

fn translate_image(arguments: &RunArguments) -> Result<Manifests> {
    let (image, command) = arguments
        .words
        .split_first()
        .expect("the caller saw a first word");
    let pod = translate::translate(&arguments.image, image, command, &surroundings(arguments)?)
        .map_err(Error::new)?;
    let text = serde_json::to_string(&pod).context("write the pod")?;
    // The same reader as for files, for its defaults and its checks.
    read_manifests(&text, "flags").map_err(|error| Error::new(error.to_string()))
}

fn surroundings(arguments: &RunArguments) -> Result<Surroundings> {
    let mut env_file_lines = Vec::new();
    for path in &arguments.image.env_files {
        let text =
            std::fs::read_to_string(path).context(format!("--env-file {}", path.display()))?;
        let lines = text.lines().map(str::trim);
        env_file_lines.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let directory = std::env::current_dir().context("read the working directory")?;
    let directory = directory
        .into_os_string()
        .into_string()
        .map_err(|path| Error::new(format!("the working directory {path:?} is not UTF-8")))?;
    Ok(Surroundings {
        environment,
        env_file_lines,
        directory,
        suffix: suffix()?,
    })
}

/// Five letters at random that make no words: Kubernetes' alphabet for names.
fn suffix() -> Result<String> {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = [0; 5];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("read random bytes")?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    Ok(bytes.iter().map(letter).collect())
}

/// Prints the objects as a manifest, in the order in which they need each other.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_objects(format: Format, manifests: &Manifests) -> Result<u8> {
    let mut objects = Vec::new();
    for list in [
        values(&manifests.config_maps)?,
        values(&manifests.secrets)?,
        values(&manifests.pods)?,
        values(&manifests.deployments)?,
        values(&manifests.jobs)?,
    ] {
        objects.extend(list);
    }
    for (number, object) in objects.iter().enumerate() {
        if format == Format::Json {
            print_json(object)?;
            continue;
        }
        if number > 0 {
            print_line("---")?;
        }
        print_yaml(object)?;
    }
    Ok(0)
}

fn values<T: serde::Serialize>(objects: &[T]) -> Result<Vec<serde_json::Value>> {
    objects
        .iter()
        .map(|object| serde_json::to_value(object).context("write an object"))
        .collect()
}
