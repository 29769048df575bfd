//! The program: arguments, environment, directory, signal.
//!
//! Rlimits are not among the CRI's fields: a program gets those of the pod's
//! monitor, which are those of the process that made the pod.

use berth_runtime::signals;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};

use super::{Privilege, SpecInputs, capabilities, clean_absolute, security, security_context};
use crate::engine::error::Error;
use crate::v1;

/// What a shell finds programs with when the image names nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `SIGTERM`.
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// The OCI's `process`.
///
/// # Errors
///
/// `Invalid` with the field's name.
pub fn plan_process(inputs: &SpecInputs<'_>, privilege: Privilege) -> Result<Process, Error> {
    let config = inputs.container;
    let context = security_context(config);
    let user = UserBuilder::default()
        .uid(inputs.run_as.uid)
        .gid(inputs.run_as.gid)
        .additional_gids(inputs.run_as.additional_gids.clone())
        .build()?;
    let wanted = context.capabilities.clone().unwrap_or_default();
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user)
        .args(plan_arguments(config, inputs.image)?)
        .env(plan_environment(inputs)?)
        .cwd(working_directory(config, inputs.image)?)
        .capabilities(capabilities::plan_capabilities(
            &wanted,
            &inputs.defaults.capabilities,
            &inputs.host.capabilities,
            privilege,
        )?)
        .no_new_privileges(context.no_new_privs)
        .build()?;
    process.set_rlimits(None);
    process.set_apparmor_profile(security::apparmor_profile(
        &context,
        inputs.host,
        privilege,
    )?);
    process.set_oom_score_adj(oom_score_adj(config, inputs.host.lowest_oom_score_adj)?);
    Ok(process)
}

/// Kubernetes' table of command and args against the image's entrypoint and cmd.
///
/// | command | args  | runs                       |
/// |---------|-------|----------------------------|
/// | unset   | unset | image entrypoint, image cmd|
/// | set     | unset | command                    |
/// | unset   | set   | image entrypoint, args     |
/// | set     | set   | command, args              |
///
/// # Errors
///
/// `Invalid` when there is nothing to run.
pub fn plan_arguments(
    config: &v1::ContainerConfig,
    image: &ImageConfiguration,
) -> Result<Vec<String>, Error> {
    let of_image = image.config().as_ref();
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let entrypoint = of_image.and_then(|config| config.entrypoint().as_ref());
    let cmd = of_image.and_then(|config| config.cmd().as_ref());
    let mut arguments = match config.command.as_slice() {
        [] => list(entrypoint),
        command => command.to_vec(),
    };
    match (config.command.is_empty(), config.args.as_slice()) {
        (true, []) => arguments.extend(list(cmd)),
        (_, args) => arguments.extend_from_slice(args),
    }
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(
            "command: nothing to run: neither the request nor the image names a program",
        ));
    }
    refuse_nul("args", &arguments)?;
    Ok(arguments)
}

/// The image's variables, then the request's; a later one of a name wins.
fn plan_environment(inputs: &SpecInputs<'_>) -> Result<Vec<String>, Error> {
    let mut variables = Vec::new();
    let of_image = inputs
        .image
        .config()
        .as_ref()
        .and_then(|config| config.env().clone())
        .unwrap_or_default();
    set_variable(&mut variables, DEFAULT_PATH.to_owned());
    if inputs.container.tty {
        set_variable(&mut variables, "TERM=xterm".to_owned());
    }
    if !inputs.sandbox.hostname.is_empty() {
        set_variable(
            &mut variables,
            format!("HOSTNAME={}", inputs.sandbox.hostname),
        );
    }
    set_variable(&mut variables, format!("HOME={}", inputs.home));
    for variable in of_image {
        set_variable(&mut variables, variable);
    }
    for pair in &inputs.container.envs {
        if pair.key.is_empty() || pair.key.contains('=') {
            return Err(Error::invalid(format!(
                "envs: {:?} is not a variable's name",
                pair.key
            )));
        }
        let value = std::str::from_utf8(&pair.value).map_err(|error| {
            Error::caused(
                crate::engine::error::ErrorKind::Invalid,
                format!("envs: the value of {} is not UTF-8", pair.key),
                error,
            )
        })?;
        set_variable(&mut variables, format!("{}={value}", pair.key));
    }
    refuse_nul("envs", &variables)?;
    Ok(variables)
}

/// Replaces the variable of the same name in its place, or appends.
pub fn set_variable(variables: &mut Vec<String>, variable: String) {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let wanted = name(&variable);
    match variables.iter_mut().find(|known| name(known) == wanted) {
        Some(known) => *known = variable,
        None => variables.push(variable),
    }
}

/// The kernel's strings end at a NUL, so one inside would cut off the rest.
fn refuse_nul(field: &str, strings: &[String]) -> Result<(), Error> {
    match strings.iter().find(|text| text.contains('\0')) {
        Some(text) => Err(Error::invalid(format!("{field}: {text:?} holds a NUL"))),
        None => Ok(()),
    }
}

fn working_directory(
    config: &v1::ContainerConfig,
    image: &ImageConfiguration,
) -> Result<std::path::PathBuf, Error> {
    let of_image = image
        .config()
        .as_ref()
        .and_then(|config| config.working_dir().as_deref())
        .unwrap_or_default();
    match (config.working_dir.as_str(), of_image) {
        ("", "") => Ok("/".into()),
        // An image may say "app"; the base is then the root (image-spec config.md).
        ("", of_image) if !of_image.starts_with('/') => {
            clean_absolute("working directory of the image", &format!("/{of_image}"))
        }
        ("", of_image) => clean_absolute("working directory of the image", of_image),
        (wanted, _) => clean_absolute("working_dir", wanted),
    }
}

/// What was asked for, but no lower than this process may set.
///
/// Going below one's own value needs `CAP_SYS_RESOURCE` (proc_pid_oom_score_adj(5));
/// a container that starts with a higher value serves better than none.
fn oom_score_adj(config: &v1::ContainerConfig, lowest: i32) -> Result<Option<i32>, Error> {
    let Some(resources) = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref())
    else {
        return Ok(None);
    };
    let wanted = i32::try_from(resources.oom_score_adj)
        .ok()
        .filter(|value| (-1000..=1000).contains(value))
        .ok_or_else(|| {
            Error::invalid(format!(
                "linux.resources.oom_score_adj: {} is not between -1000 and 1000",
                resources.oom_score_adj
            ))
        })?;
    Ok(Some(wanted.max(lowest)))
}

/// The signal that asks the program to end: the request's, the image's, or `SIGTERM`.
///
/// # Errors
///
/// `Invalid` for a signal of the image that no kernel knows.
pub fn stop_signal(config: &v1::ContainerConfig, image: &ImageConfiguration) -> Result<i32, Error> {
    let requested = v1::Signal::try_from(config.stop_signal).map_err(|_| {
        Error::invalid(format!(
            "stop_signal: {} is not a signal of the CRI",
            config.stop_signal
        ))
    })?;
    if requested != v1::Signal::RuntimeDefault {
        // "SIGNAL_SIGRTMINPLUS3" is the CRI's way to write SIGRTMIN+3.
        let name = requested
            .as_str_name()
            .trim_start_matches("SIGNAL_")
            .replace("PLUS", "+")
            .replace("MINUS", "-");
        return parse_signal(&name)
            .ok_or_else(|| Error::invalid(format!("stop_signal: {name} is not a signal")));
    }
    let of_image = image
        .config()
        .as_ref()
        .and_then(|config| config.stop_signal().as_deref())
        .filter(|text| !text.is_empty());
    match of_image {
        None => Ok(DEFAULT_STOP_SIGNAL),
        Some(text) => parse_signal(text).ok_or_else(|| {
            Error::invalid(format!("the image's stop signal {text:?} is not a signal"))
        }),
    }
}

/// A signal that can be sent, by name or number; 0 is none.
pub fn parse_signal(text: &str) -> Option<i32> {
    signals::parse(text).filter(|number| *number != 0)
}

#[cfg(test)]
mod tests;
