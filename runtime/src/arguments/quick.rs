//! The command lines that callers write by the thousand, read without clap.
//!
//! To describe one command to clap and to match it takes 300,000 instructions, a third
//! of all that `run` executes. What is here takes some hundred, and reads only what it is
//! sure of: an option or a command that callers seldom use, a mistake, `--help`, anything
//! twice, is nothing, and goes the long way. So clap alone says what a line means and what
//! is wrong with it; the tests hold the two against each other.

use std::ffi::OsString;
use std::path::PathBuf;
use std::slice::Iter;

use super::{
    Arguments, CreateArguments, DeleteArguments, ExecArguments, Global, KillArguments, LogFormat,
    Manager, Named, Rootless, RunArguments, SIGNAL, Verb,
};

/// The command line, if it is an ordinary one.
pub(super) fn read(words: &[OsString]) -> Option<Arguments> {
    let mut line = Line {
        words: words.get(1..)?.iter(),
        value: None,
        seen: Vec::new(),
    };
    let mut global = defaults();
    let mut verb = None;
    while let Some(word) = line.next()? {
        match (&mut verb, word.strip_prefix('-')) {
            (None, None) => verb = Some(begin(word)?),
            (Some(verb), None) => take_word(verb, word, &mut line)?,
            (verb, Some(rest)) => {
                let name = line.option(verb.as_ref(), rest)?;
                let known = set_global(&mut global, name, &mut line);
                if !known? {
                    set(verb.as_mut()?, name, &mut line)?;
                }
            }
        }
        // A flag has no value.
        if line.value.is_some() {
            return None;
        }
    }
    let verb = finish(verb?)?;
    Some(Arguments { global, verb })
}

/// The words that were not read yet.
struct Line<'a> {
    words: Iter<'a, OsString>,
    /// What stands behind the `=` of the option that is being read.
    value: Option<&'a str>,
    /// Options that were read.
    seen: Vec<&'a str>,
}

impl<'a> Line<'a> {
    /// The next word, none at the end; nothing at all if it is no plain text.
    fn next(&mut self) -> Option<Option<&'a str>> {
        match self.words.next() {
            None => Some(None),
            Some(word) => word.to_str().filter(|word| !word.is_empty()).map(Some),
        }
    }

    /// The long name of an option that is there for the first time, or may be there often.
    fn option(&mut self, verb: Option<&Verb>, rest: &'a str) -> Option<&'a str> {
        // Behind the id stands the program with its own options.
        if matches!(verb, Some(Verb::Exec(exec)) if !exec.id.is_empty()) {
            return None;
        }
        let name = match rest.strip_prefix('-') {
            None if rest.len() == 1 => long_name(verb?, rest)?,
            // Go's programs take `-name` for `--name`.
            long => {
                let (name, value) = match long.unwrap_or(rest).split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (long.unwrap_or(rest), None),
                };
                self.value = value;
                name
            }
        };
        let often = matches!(name, "env" | "cap" | "cgroup" | "additional-gids");
        if name.len() < 2 || (!often && self.seen.contains(&name)) {
            return None;
        }
        self.seen.push(name);
        Some(name)
    }

    /// The value of the option that is being read.
    fn value(&mut self) -> Option<&'a str> {
        let value = match self.value.take() {
            Some(value) => value,
            None => self.next()?.filter(|word| !word.starts_with('-'))?,
        };
        (!value.is_empty()).then_some(value)
    }

    fn path(&mut self) -> Option<PathBuf> {
        self.value().map(PathBuf::from)
    }

    fn text(&mut self) -> Option<String> {
        self.value().map(str::to_owned)
    }

    fn number(&mut self) -> Option<u32> {
        let value = self.value()?;
        let is_plain = value.bytes().all(|digit| digit.is_ascii_digit());
        is_plain.then(|| value.parse().ok())?
    }
}

fn defaults() -> Global {
    Global {
        root: crate::rootless::default_root(),
        log: None,
        log_format: LogFormat::Text,
        debug: false,
        log_level: None,
        criu: None,
        systemd_cgroup: false,
        cgroup_manager: None,
        rootless: Rootless::Auto,
        narrate: false,
    }
}

/// The command of a name, as yet without anything.
fn begin(name: &str) -> Option<Verb> {
    let making = || CreateArguments {
        bundle: ".".into(),
        ..CreateArguments::default()
    };
    let named = || Named { id: String::new() };
    Some(match name {
        "create" => Verb::Create(making()),
        "run" => Verb::Run(RunArguments {
            create: making(),
            ..RunArguments::default()
        }),
        "start" => Verb::Start(named()),
        "state" => Verb::State(named()),
        "kill" => Verb::Kill(KillArguments {
            all: false,
            regex: false,
            id: String::new(),
            signal: String::new(),
        }),
        "delete" => Verb::Delete(DeleteArguments {
            force: false,
            regex: false,
            id: String::new(),
        }),
        "exec" => Verb::Exec(ExecArguments::default()),
        _ => return None,
    })
}

/// An option that holds for every command; false where it is another.
fn set_global(global: &mut Global, name: &str, line: &mut Line<'_>) -> Option<bool> {
    match name {
        "root" => global.root = line.path()?,
        "log" => global.log = Some(line.path()?),
        "log-format" => {
            global.log_format = match line.value()? {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return None,
            }
        }
        "debug" => global.debug = true,
        "systemd-cgroup" => global.systemd_cgroup = true,
        "cgroup-manager" => {
            global.cgroup_manager = Some(match line.value()? {
                "cgroupfs" => Manager::Cgroupfs,
                "systemd" => Manager::Systemd,
                "disabled" => Manager::Disabled,
                _ => return None,
            });
        }
        "narrate" => global.narrate = true,
        _ => return Some(false),
    }
    Some(true)
}

/// The long name of an option of one letter.
fn long_name(verb: &Verb, letter: &str) -> Option<&'static str> {
    Some(match (verb, letter) {
        (Verb::Create(_) | Verb::Run(_), "b") => "bundle",
        (Verb::Create(_) | Verb::Run(_), "f") => "config",
        (Verb::Run(_) | Verb::Exec(_), "d") => "detach",
        (Verb::Kill(_), "a") => "all",
        (Verb::Delete(_), "f") => "force",
        (Verb::Exec(_), "p") => "process",
        (Verb::Exec(_), "t") => "tty",
        (Verb::Exec(_), "e") => "env",
        (Verb::Exec(_), "u") => "user",
        (Verb::Exec(_), "g") => "additional-gids",
        (Verb::Exec(_), "c") => "cap",
        _ => return None,
    })
}

/// An option of the command.
fn set(verb: &mut Verb, name: &str, line: &mut Line<'_>) -> Option<()> {
    match (verb, name) {
        (Verb::Run(run), "detach") => run.detach = true,
        (Verb::Run(run), "keep") => run.keep = true,
        (Verb::Create(create) | Verb::Run(RunArguments { create, .. }), _) => {
            set_making(create, name, line)?;
        }
        (Verb::Kill(kill), "all") => kill.all = true,
        (Verb::Delete(delete), "force") => delete.force = true,
        (Verb::Exec(exec), _) => set_exec(exec, name, line)?,
        _ => return None,
    }
    Some(())
}

fn set_making(create: &mut CreateArguments, name: &str, line: &mut Line<'_>) -> Option<()> {
    match name {
        "bundle" => create.bundle = line.path()?,
        "config" => create.config = Some(line.path()?),
        "console-socket" => create.console_socket = Some(line.path()?),
        "pidfd-socket" => create.pidfd_socket = Some(line.path()?),
        "pid-file" => create.pid_file = Some(line.path()?),
        "no-pivot" => create.no_pivot = true,
        "no-new-keyring" => create.no_new_keyring = true,
        "no-subreaper" => create.no_subreaper = true,
        "preserve-fds" => create.preserve_fds = line.number()?,
        _ => return None,
    }
    Some(())
}

fn set_exec(exec: &mut ExecArguments, name: &str, line: &mut Line<'_>) -> Option<()> {
    match name {
        "process" => exec.process = Some(line.path()?),
        "console-socket" => exec.console_socket = Some(line.path()?),
        "pidfd-socket" => exec.pidfd_socket = Some(line.path()?),
        "pid-file" => exec.pid_file = Some(line.path()?),
        "detach" => exec.detach = true,
        "tty" => exec.tty = true,
        "cwd" => exec.cwd = Some(line.path()?),
        "env" => exec.env.push(line.text()?),
        "user" => exec.user = Some(line.text()?),
        "additional-gids" => exec.additional_gids.push(line.number()?),
        "cap" => exec.cap.push(line.text()?),
        "no-new-privs" => exec.no_new_privs = true,
        "preserve-fds" => exec.preserve_fds = line.number()?,
        "cgroup" => exec.cgroup.push(line.text()?),
        _ => return None,
    }
    Some(())
}

/// A word that is no option: the container, a signal, the program of `exec`.
fn take_word(verb: &mut Verb, word: &str, line: &mut Line<'_>) -> Option<()> {
    let place = match verb {
        Verb::Create(create) | Verb::Run(RunArguments { create, .. }) => &mut create.id,
        Verb::Start(named) | Verb::State(named) => &mut named.id,
        Verb::Kill(kill) if !kill.id.is_empty() => &mut kill.signal,
        Verb::Kill(kill) => &mut kill.id,
        Verb::Delete(delete) => &mut delete.id,
        Verb::Exec(exec) if !exec.id.is_empty() => {
            exec.command.push(word.to_owned());
            for word in line.words.by_ref() {
                let word = word.to_str().filter(|word| *word != "--")?;
                exec.command.push(word.to_owned());
            }
            return Some(());
        }
        Verb::Exec(exec) => &mut exec.id,
        _ => return None,
    };
    if !place.is_empty() {
        return None;
    }
    word.clone_into(place);
    Some(())
}

/// The command, if its container is named.
fn finish(mut verb: Verb) -> Option<Verb> {
    let id = match &mut verb {
        Verb::Create(create) | Verb::Run(RunArguments { create, .. }) => &create.id,
        Verb::Start(named) | Verb::State(named) => &named.id,
        Verb::Kill(kill) => {
            if kill.signal.is_empty() {
                SIGNAL.clone_into(&mut kill.signal);
            }
            &kill.id
        }
        Verb::Delete(delete) => &delete.id,
        Verb::Exec(exec) => &exec.id,
        _ => return None,
    };
    (!id.is_empty()).then_some(verb)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::arguments::with_two_dashes;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn long_way(words: &[OsString]) -> Option<String> {
        let found = Arguments::try_parse_from(with_two_dashes(words.to_vec())).ok()?;
        Some(format!("{found:?}"))
    }

    #[test]
    fn it_reads_what_callers_write_as_the_long_way_does() {
        for line in [
            "berth-oci create --bundle /b --pid-file /p one",
            "berth-oci --root /r --log /l --log-format json create -b /b --console-socket /s --no-pivot one",
            "berth-oci create --root /r --preserve-fds 3 one",
            "berth-oci create one --bundle=/b",
            "berth-oci --systemd-cgroup start one",
            "berth-oci --root=/r state one",
            "berth-oci kill --all one 9",
            "berth-oci kill one",
            "berth-oci delete --force one",
            "berth-oci run -d --keep -b /b one",
            "berth-oci -root /r run -no-subreaper -bundle=/b c",
            "berth-oci --cgroup-manager disabled exec --process /p --detach --pid-file /q one",
            "berth-oci exec -t -e A=1 -e B=2 --user 1:2 one sh -c true",
            "berth-oci exec one ls -l --color",
        ] {
            let words = words(line);
            let quick = read(&words).map(|found| format!("{found:?}"));
            assert_eq!(Some(quick.expect(line)), long_way(&words), "{line}");
        }
    }

    #[test]
    fn mistakes_and_what_is_seldom_are_not_read() {
        for line in [
            "berth-oci",
            "berth-oci --help",
            "berth-oci create",
            "berth-oci create one two",
            "berth-oci create --bundle",
            "berth-oci create --bundle /a -b /b one",
            "berth-oci create --no-pivot=yes one",
            "berth-oci create --preserve-fds -1 one",
            "berth-oci create --preserve-fds +1 one",
            "berth-oci create --bundle --no-pivot one",
            "berth-oci kill --what one",
            "berth-oci run --help",
            "berth-oci exec -it one sh",
            "berth-oci exec one -- sh",
            "berth-oci exec one sh -- -c",
            "berth-oci list",
        ] {
            assert!(read(&words(line)).is_none(), "{line}");
        }
    }

    /// Words that lines are made of, at random.
    const PIECES: &[&str] = &[
        "--root",
        "--root=/r",
        "--log",
        "-log",
        "--log-format",
        "json",
        "text",
        "--debug",
        "--systemd-cgroup",
        "--cgroup-manager",
        "disabled",
        "--rootless",
        "true",
        "--narrate",
        "create",
        "run",
        "start",
        "state",
        "kill",
        "delete",
        "exec",
        "list",
        "--bundle",
        "-b",
        "-bundle=/b",
        "--config",
        "-f",
        "--pid-file",
        "--pid-file=",
        "--no-pivot",
        "--no-pivot=1",
        "-no-new-keyring",
        "--no-subreaper",
        "--preserve-fds",
        "3",
        "-1",
        "-d",
        "--detach",
        "--keep",
        "-a",
        "--all",
        "--regex",
        "--force",
        "-p",
        "--process",
        "-t",
        "--tty",
        "-dt",
        "-e",
        "-eA=1",
        "A=1",
        "--env",
        "-u",
        "1:2",
        "-g",
        "7",
        "--cap",
        "CAP_KILL",
        "--cgroup",
        "/sub",
        "--no-new-privs",
        "--ignore-paused",
        "one",
        "two",
        "KILL",
        "9",
        "sh",
        "-c",
        "--",
        "-",
        "",
        "--help",
        "-h",
        "--b",
        "-x",
        "=",
        "--=",
        "-=x",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_never_reads_what_the_long_way_reads_differently(
            before in proptest::collection::vec(proptest::sample::select(PIECES), 0..3),
            verb in proptest::sample::select(&["create", "run", "start", "kill", "delete", "exec"][..]),
            after in proptest::collection::vec(proptest::sample::select(PIECES), 0..6),
        ) {
            let line = ["berth-oci"].into_iter().chain(before).chain([verb]).chain(after);
            let words: Vec<OsString> = line.map(OsString::from).collect();
            if let Some(quick) = read(&words) {
                prop_assert_eq!(Some(format!("{quick:?}")), long_way(&words), "{:?}", words);
            }
        }
    }
}
