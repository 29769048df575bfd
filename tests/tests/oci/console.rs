//! Terminals: of `create` and `exec` by a socket, of `run` in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::terminal::{INTERRUPT, Terminal};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::check::{Who, check};
use crate::lab::{Lab, as_is, path};

const LIMIT: Duration = Duration::from_secs(15);

/// Takes the master of a terminal that a runtime sends.
fn receive(listener: &UnixListener) -> Result<File> {
    let (connection, _) = listener.accept()?;
    let mut name = [0u8; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(
        &connection,
        &mut parts,
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut files) = message {
            return files.next().map(File::from).context("an empty message");
        }
    }
    Err(anyhow!("a message without a descriptor"))
}

/// Reads until a text was seen.
fn read_until(master: &mut File, text: &str) -> Result<String> {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 512];
    loop {
        let length = master.read(&mut chunk).with_context(|| {
            format!(
                "{text:?} did not come: {:?}",
                String::from_utf8_lossy(&seen)
            )
        })?;
        ensure!(length > 0, "{text:?} did not come");
        seen.extend_from_slice(&chunk[..length]);
        let shown = String::from_utf8_lossy(&seen);
        if shown.contains(text) {
            return Ok(shown.into_owned());
        }
    }
}

fn listen(lab: &Lab) -> Result<(UnixListener, std::path::PathBuf)> {
    let socket = lab.host.work_dir().join("console");
    Ok((UnixListener::bind(&socket)?, socket))
}

#[test]
fn create_sends_the_terminal() {
    check(Who::All, |lab| {
        let (listener, socket) = listen(lab)?;
        let script = "read x; echo got $x; tty; stty size; ls -l /dev/console; echo x > /dev/tty; echo end; sleep 1000";
        let bundle = lab.bundle("c", |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        let words = [
            "create",
            "--bundle",
            path(&bundle),
            "--console-socket",
            path(&socket),
            "c",
        ];
        lab.call(&words)?.text()?;
        let mut master = receive(&listener)?;
        lab.call(&["start", "c"])?.text()?;
        master.write_all(b"word\n")?;
        let seen = read_until(&mut master, "end")?;
        crate::lab::holds(seen, &["got word", "/dev/pts/0", "33 77", "/dev/console"])?;
        lab.remove("c")
    });
}

#[test]
fn a_terminal_needs_somebody_to_have_it() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["terminal"] = json!(true))?;
        lab.call(&["create", "--bundle", path(&bundle), "c"])?
            .complaint()?;
        Ok(())
    });
}

#[test]
fn a_socket_that_is_missing_is_told() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| config["process"]["terminal"] = json!(true))?;
        let words = [
            "create",
            "--bundle",
            path(&bundle),
            "--console-socket",
            "/nonesuch",
            "c",
        ];
        lab.call(&words)?.complaint().map(drop)
    });
}

#[test]
fn exec_sends_a_terminal() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let (listener, socket) = listen(lab)?;
        let words = [
            "exec",
            "--tty",
            "--detach",
            "--console-socket",
            path(&socket),
            "c",
            "sh",
            "-c",
            "read x; echo got $x; tty; stty -a | head -1; echo end; sleep 1000",
        ];
        lab.call(&words)?.text()?;
        let mut master = receive(&listener)?;
        master.write_all(b"word\n")?;
        crate::lab::holds(read_until(&mut master, "end")?, &["got word", "/dev/pts/0"])?;
        lab.remove("c")
    });
}

fn on_terminal(lab: &Lab, words: &[&str]) -> Result<Terminal> {
    let mut line = lab.host.command_line(path(&lab.runtime.path));
    line.extend(["--root".to_owned(), path(&lab.root()).to_owned()]);
    line.extend(words.iter().map(|word| (*word).to_owned()));
    Terminal::run(&line, &lab.host.command("true"))
}

#[test]
fn run_in_the_foreground() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["args"] = json!(["sh"]);
        })?;
        let mut terminal = on_terminal(lab, &["run", "--bundle", path(&bundle), "c"])?;
        terminal.type_keys("echo $((40 + 2)); tty\n")?;
        terminal.wait_for("\n42\n", LIMIT)?;
        terminal.wait_for("/dev/pts/0", LIMIT)?;
        terminal.clear();
        terminal.type_keys("stty size\n")?;
        terminal.wait_for("24 80", LIMIT)?;
        terminal.resize(100, 30)?;
        std::thread::sleep(Duration::from_millis(200));
        terminal.type_keys("stty size\n")?;
        terminal.wait_for("30 100", LIMIT)?;
        // The interrupt goes to the program inside, not to the runtime.
        terminal.type_keys("sleep 100; echo status $?\n")?;
        std::thread::sleep(Duration::from_millis(300));
        terminal.type_keys(INTERRUPT)?;
        terminal.type_keys("exit 7\n")?;
        let ended = terminal.wait(LIMIT)?;
        ensure!(ended.code() == Some(7), "{ended:?}: {}", terminal.text());
        Ok(())
    });
}

#[test]
fn exec_in_the_foreground() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let mut terminal = on_terminal(lab, &["exec", "--tty", "c", "sh"])?;
        // Keys typed before the shell reads are echoed twice and confuse it.
        terminal.wait_for("/ # ", LIMIT)?;
        terminal.type_keys("echo $((40 + 2)); tty; stty size\n")?;
        terminal.wait_for("\n42\n", LIMIT)?;
        terminal.wait_for("/dev/pts/", LIMIT)?;
        terminal.wait_for("24 80", LIMIT)?;
        terminal.type_keys("exit 9\n")?;
        let ended = terminal.wait(LIMIT)?;
        ensure!(ended.code() == Some(9), "{ended:?}: {}", terminal.text());
        lab.remove("c")
    });
}

/// Who waits for the end of the terminal instead of the program's waits too long.
#[test]
fn exec_ends_with_its_program() {
    check(Who::All, |lab| {
        lab.start("c", as_is)?;
        let words = [
            "exec",
            "--tty",
            "c",
            "sh",
            "-c",
            "trap '' HUP; sleep 1000 & echo last; exit 9",
        ];
        let mut terminal = on_terminal(lab, &words)?;
        let ended = terminal.wait(LIMIT)?;
        ensure!(ended.code() == Some(9), "{ended:?}: {}", terminal.text());
        terminal.wait_for("last", LIMIT)?;
        lab.remove("c")
    });
}

#[test]
fn a_user_has_its_terminal() {
    check(Who::All, |lab| {
        let bundle = lab.bundle("c", |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            config["process"]["args"] =
                json!(["sh", "-c", "echo x > /dev/tty && stat -c %u $(tty); exit 3"]);
        })?;
        let mut terminal = on_terminal(lab, &["run", "--bundle", path(&bundle), "c"])?;
        let ended = terminal.wait(LIMIT)?;
        ensure!(ended.code() == Some(3), "{ended:?}: {}", terminal.text());
        terminal.wait_for("\n1000\n", LIMIT)
    });
}
