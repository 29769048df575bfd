//! Logs, exec, attach and port-forward through the kubelet, by Kubernetes' own client.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::node::{NGINX, Node, exec_url, full_name, run, shell, shell_with};

#[test]
fn streams_pass_the_kubelet() -> Result<()> {
    run(json!({}), |node| {
        let echoes = shell_with(
            "echoes",
            "echo begun; cat; exec sleep 1000",
            json!({"stdin": true, "stdinOnce": true}),
        );
        let spec = json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [shell("main", "echo out; echo err >&2; exec sleep 1000"), echoes,
                {"name": "web", "image": NGINX}],
        });
        node.put("streams", spec)?;
        node.ready("streams")?;
        for transport in ["spdy", "websocket"] {
            exec(node, transport).context(transport)?;
            terminal(node, transport).context(transport)?;
            forward(node, transport).context(transport)?;
        }
        attach(node)?;
        logs(node)?;
        old_run(node)
    })
}

/// Both outputs, input to its end, and the exit code.
fn exec(node: &Node, transport: &str) -> Result<()> {
    let script = "cat; echo err >&2; exit 7";
    let url = exec_url(
        "streams",
        "main",
        &["sh", "-c", script],
        "input=1&output=1&error=1",
    );
    let mut child = piped(node, &["exec", transport, &url])?;
    let sent = "x".repeat(300_000);
    let mut input = child.stdin.take().context("stdin")?;
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || input.write_all(sent.as_bytes()))
    };
    let output = child.wait_with_output()?;
    ensure!(writer.join().is_ok_and(|written| written.is_ok()));
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(7) && error == "err\n",
        "{}: {error}",
        output.status
    );
    ensure!(
        output.stdout == sent.as_bytes(),
        "{} bytes came back",
        output.stdout.len()
    );
    Ok(())
}

fn terminal(node: &Node, transport: &str) -> Result<()> {
    let url = exec_url(
        "streams",
        "main",
        &["sh", "-c", "test -t 0 && tty"],
        "input=1&output=1&tty=1",
    );
    let output = piped(node, &["exec", transport, &url])?.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && told.contains("/dev/"),
        "{told}: {output:?}"
    );
    Ok(())
}

fn forward(node: &Node, transport: &str) -> Result<()> {
    let url = format!(
        "https://127.0.0.1:10250/portForward/default/{}",
        full_name("streams")
    );
    let mut child = piped(node, &["forward", transport, &url, "80"])?;
    let mut line = String::new();
    // Kept until the end: it tells of each connection, too.
    let mut told = BufReader::new(child.stdout.take().context("stdout")?);
    told.read_line(&mut line)?;
    let address = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next());
    let Some(address) = address else {
        let mut reason = String::new();
        child
            .stderr
            .take()
            .context("stderr")?
            .read_to_string(&mut reason)?;
        anyhow::bail!("{line}{reason}");
    };
    let page = node
        .machine
        .host()
        .get_within(Duration::from_secs(10), address.parse()?, "/")?;
    ensure!(page.text().contains("Welcome to nginx!"));
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}

fn attach(node: &Node) -> Result<()> {
    let url = exec_url("streams", "echoes", &[], "input=1&output=1&error=1")
        .replace("/exec/", "/attach/")
        .replace("?&", "?");
    let mut child = piped(node, &["exec", "spdy", &url])?;
    let mut input = child.stdin.take().context("stdin")?;
    writeln!(input, "there")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    ensure!(line == "there\n", "{line:?}");
    drop(input);
    child.kill()?;
    child.wait()?;
    node.until("the log has it", || {
        Ok(node.log("streams", "echoes")?.contains("there"))
    })
}

fn logs(node: &Node) -> Result<()> {
    let log = node.log("streams", "main")?;
    ensure!(log.contains("out\n") && log.contains("err\n"), "{log}");
    let target = format!("/containerLogs/default/{}/main", full_name("streams"));
    let stamped = node.get_secure(&format!("{target}?tailLines=1&timestamps=true"))?;
    ensure!(
        stamped.lines().count() == 1 && stamped.contains("Z "),
        "{stamped}"
    );
    Ok(())
}

/// The kubelet's `/run`, which is an `ExecSync`.
fn old_run(node: &Node) -> Result<()> {
    let url = format!(
        "https://127.0.0.1:10250/run/default/{}/main?cmd=echo+there",
        full_name("streams")
    );
    let output = node
        .machine
        .host()
        .command("curl")
        .args(["-sSk", "-m", "20", "-X", "POST", &url])
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(told == "there\n", "{told}");
    Ok(())
}

fn piped(node: &Node, words: &[&str]) -> Result<Child> {
    Ok(node
        .peer(words)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}
