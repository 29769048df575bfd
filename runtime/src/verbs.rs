//! The commands, one file each.

pub mod completion;
pub mod create;
pub mod delete;
pub mod diff;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
pub mod pause;
pub mod plan;
pub mod ps;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod step;
pub mod update;

use crate::arguments::{Arguments, Verb};
use crate::error::{Error, ErrorKind};
use crate::ids::ContainerId;
use crate::state::{Folder, Record, StateStore, Status};
use crate::{arguments::Global, monitor, stages, sys};

/// The exit status that says that a command failed. That of `exec` is one that
/// few programs have themselves, so that callers can tell the two apart.
pub fn failure_code(verb: &Verb) -> u8 {
    match verb {
        Verb::Exec(_) => 255,
        // 1 says that the two differ.
        Verb::Diff(_) => 2,
        _ => 1,
    }
}

/// Does what the command line asks for; the number is the exit status.
///
/// # Errors
///
/// What was not done, and why.
pub fn run(arguments: &Arguments) -> Result<i32, Error> {
    let global = &arguments.global;
    if global.narrate {
        sys::call::narrate();
    }
    match &arguments.verb {
        Verb::Create(arguments) => create::create(global, arguments),
        Verb::Start(named) => start::start(global, &named.id),
        Verb::State(named) => state::state(global, &named.id),
        Verb::Kill(arguments) => kill::kill(global, arguments),
        Verb::Delete(arguments) => delete::delete(global, arguments),
        Verb::Run(arguments) => run::run(global, arguments),
        Verb::Exec(arguments) => exec::exec(global, arguments),
        Verb::Ps(arguments) => ps::ps(global, arguments),
        Verb::List(arguments) => list::list(global, arguments),
        Verb::Pause(named) => pause::pause(global, &named.id),
        Verb::Resume(named) => pause::resume(global, &named.id),
        Verb::Update(arguments) => update::update(global, arguments),
        Verb::Events(arguments) => events::events(global, arguments),
        Verb::Spec(arguments) => spec::spec(global, arguments),
        Verb::Features => features::features(),
        Verb::Step(arguments) => step::step(global, arguments),
        Verb::Plan(arguments) => plan::plan(global, arguments),
        Verb::Diff(arguments) => diff::diff(arguments),
        Verb::Checkpoint(_) => Err(not_there("checkpoint")),
        Verb::Restore(_) => Err(not_there("restore")),
        Verb::Completion(arguments) => completion::completion(arguments),
        Verb::Stages(arguments) => {
            let table = if arguments.exec {
                stages::EXEC
            } else {
                stages::CREATE
            };
            print!("{}", stages::describe(table));
            Ok(0)
        }
        Verb::Monitor(arguments) => match monitor::run(&arguments.pod_dir) {
            Ok(()) => Ok(0),
            Err(error) => Err(Error::new(ErrorKind::Failed, crate::causes::chain(&error))),
        },
    }
}

/// What callers of runc may ask for and `features` says is not there.
fn not_there(verb: &str) -> Error {
    let text = format!(
        "{verb}: not supported: this runtime cannot save a container to disk yet (`berth-oci features` says so too); nothing was done"
    );
    Error::new(ErrorKind::BadInput, text)
}

/// A container that exists.
pub struct Found {
    /// Its folder.
    pub folder: Folder,
    /// What is written there.
    pub record: Record,
    /// Where it is in its life.
    pub status: Status,
}

/// Does something to each container whose name matches an extended regular
/// expression, as crun does. None is no error, and after a failure the others
/// have their turn.
///
/// # Errors
///
/// What is no expression; the first failure, the others are told of.
pub fn for_each_match(
    global: &Global,
    expression: &str,
    mut act: impl FnMut(&str) -> Result<i32, Error>,
) -> Result<i32, Error> {
    let regex = sys::regex::Regex::compile(expression).map_err(|words| {
        let text = format!("--regex: {expression:?}: {words}; nothing was done");
        Error::new(ErrorKind::BadInput, text)
    })?;
    let mut first = Ok(0);
    for (id, _) in StateStore::new(&global.root).list()? {
        let id = id.as_str();
        let Some(error) = regex.matches(id).then(|| act(id).err()).flatten() else {
            continue;
        };
        match first {
            Ok(_) => first = Err(error),
            Err(_) => eprintln!("berth-oci: {id}: {error}"),
        }
    }
    first
}

/// Finds a container by its id.
///
/// # Errors
///
/// [`ErrorKind::NotFound`], with the words "does not exist".
pub fn find(global: &Global, id: &str) -> Result<Found, Error> {
    let id = ContainerId::parse(id)?;
    let folder = StateStore::new(&global.root).open_folder(&id)?;
    let record = folder.read_record()?;
    let status = folder.observe_status(&record);
    Ok(Found {
        folder,
        record,
        status,
    })
}
