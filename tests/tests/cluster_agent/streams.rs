//! Streams by the real kubectl, through the API to the agent and the runtime.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::terminal::Terminal;
use serde_json::json;

use crate::world::{self, IMAGE, World};

const LIMIT: Duration = Duration::from_secs(60);

/// A pod whose main container echoes what it is told, beside a web server.
async fn begin(world: &World) -> Result<()> {
    let spec = json!({"containers": [
        {"name": "echo", "image": IMAGE, "stdin": true, "command": ["sh", "-c", "echo begun; exec cat"]},
        {"name": "web", "image": "docker.io/library/nginx:1.29"}]});
    world.bind("streams", spec).await?;
    let words = ["get", "pod", "streams", "--no-headers"];
    world
        .until_prints(&words, |line| line.contains(" 2/2 "))
        .await
        .map(drop)
}

#[test]
fn kubectl_attaches_copies_and_forwards() -> Result<()> {
    world::run(async |world| {
        begin(&world).await?;
        attach(&world).context("attach")?;
        copy(&world).context("cp")?;
        forward(&world).context("port-forward")?;
        exit_codes(&world).context("exec")?;
        Ok(world)
    })
}

#[test]
fn kubectl_gives_a_shell_on_a_terminal() -> Result<()> {
    world::run(async |world| {
        begin(&world).await?;
        let command = world.kubectl(&["exec", "-it", "streams", "-c", "web", "--", "sh"])?;
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let mut shell = Terminal::run(&words, &command)?;
        shell.wait_for("# ", LIMIT)?;
        shell.resize(101, 37)?;
        // The size comes by a channel of its own, some time.
        let mut sized = false;
        for _ in 0..100 {
            shell.clear();
            shell.type_keys("stty size; echo asked\n")?;
            shell.wait_for("\nasked\n", LIMIT)?;
            sized = shell.text().contains("37 101");
            if sized {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        ensure!(sized, "the size did not arrive: {}", shell.text());
        shell.type_keys("test -t 0 && tty; exit 5\n")?;
        let code = shell.wait(LIMIT)?.code();
        ensure!(code == Some(5), "the shell ended with {code:?}");
        ensure!(shell.text().contains("/dev/"), "{}", shell.text());
        Ok(world)
    })
}

/// What is typed reaches the container's first process, and comes back.
fn attach(world: &World) -> Result<()> {
    let mut child = world
        .kubectl(&["attach", "-i", "streams", "-c", "echo"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("an input")?;
    writeln!(input, "over there")?;
    let mut output = BufReader::new(child.stdout.take().context("an output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "over there\n", "{line:?}");
    // Its input stays open for the next one: only this client goes.
    end(&mut child)?;
    let log = world.prints(&["logs", "streams", "-c", "echo"])?;
    ensure!(log == "begun\nover there\n", "{log:?}");
    Ok(())
}

/// Ends a kubectl that would go on: `timeout`, around it, passes the signal on.
fn end(child: &mut Child) -> Result<()> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    child.wait()?;
    Ok(())
}

/// A file of a megabyte there and back, and a directory.
fn copy(world: &World) -> Result<()> {
    let folder = world.machine.host().work_dir().join("copied");
    std::fs::create_dir_all(folder.join("deep"))?;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(folder.join("deep/file"), &bytes)?;
    let source = folder.display().to_string();
    world.prints(&["cp", &source, "streams:/tmp/in", "-c", "echo"])?;
    let words = [
        "exec",
        "streams",
        "-c",
        "echo",
        "--",
        "wc",
        "-c",
        "/tmp/in/deep/file",
    ];
    let counted = world.prints(&words)?;
    ensure!(counted.starts_with("1000000 "), "{counted}");
    let back = world.machine.host().work_dir().join("back");
    let target = back.display().to_string();
    world.prints(&["cp", "streams:/tmp/in", &target, "-c", "echo"])?;
    ensure!(
        std::fs::read(back.join("deep/file"))? == bytes,
        "the file came back otherwise"
    );
    Ok(())
}

fn forward(world: &World) -> Result<()> {
    let mut child = world
        .kubectl(&[
            "port-forward",
            "pod/streams",
            ":80",
            "--address",
            "127.0.0.1",
        ])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut told = BufReader::new(child.stdout.take().context("an output")?);
    let mut line = String::new();
    told.read_line(&mut line)?;
    let address = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next())
        .with_context(|| format!("an address in {line:?}"))?
        .parse()?;
    let drain = std::thread::spawn(move || {
        // It tells of each connection and would wait for a reader.
        let mut rest = String::new();
        let _ = std::io::Read::read_to_string(&mut told, &mut rest);
    });
    for _ in 0..3 {
        let page = world.machine.host().get_within(LIMIT, address, "/")?;
        ensure!(page.text().contains("Welcome to nginx!"), "{}", page.text());
    }
    end(&mut child)?;
    ensure!(drain.join().is_ok());
    Ok(())
}

/// Input to its end, both outputs, the exit code.
fn exit_codes(world: &World) -> Result<()> {
    let script = "wc -c; echo err >&2; exit 7";
    let mut child = world
        .kubectl(&[
            "exec", "-i", "streams", "-c", "web", "--", "sh", "-c", script,
        ])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("an input")?;
    let writer = std::thread::spawn(move || input.write_all(&[b'x'; 300_000]));
    let output = child.wait_with_output()?;
    ensure!(writer.join().is_ok_and(|written| written.is_ok()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(text(&output.stdout).trim() == "300000", "{output:?}");
    ensure!(text(&output.stderr).starts_with("err\n"), "{output:?}");
    Ok(())
}
