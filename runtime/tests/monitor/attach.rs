//! Streams to and from clients.

use std::time::Duration;

use berth_runtime::monitor::frames::resize_payload;
use berth_runtime::monitor::protocol::{FailureKind, FrameKind, Request};

use crate::fixture::{Pod, Recipe, eventually};

fn start(pod: &Pod, id: &str) {
    pod.done(&Request::Start { id: id.into() });
}

#[test]
fn output_of_both_streams_reaches_who_attached_before_the_start() {
    let pod = Pod::started();
    pod.create("a", &Recipe::new("echo out; echo err >&2"));
    let mut attachment = pod.attach("a");
    start(&pod, "a");
    attachment.read_to_end();
    assert_eq!(attachment.text_of(FrameKind::Stdout), "out\n");
    assert_eq!(attachment.text_of(FrameKind::Stderr), "err\n");
    let (kind, _) = pod.refused(&Request::Attach { id: "a".into() });
    assert_eq!(kind, FailureKind::WrongState);
}

#[test]
fn standard_input_flows_and_an_empty_frame_closes_it() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("wc -c");
    recipe.stdin = true;
    pod.create("a", &recipe);
    let mut attachment = pod.attach("a");
    start(&pod, "a");
    // More than a pipe and the monitor's queue hold together.
    for _ in 0..100 {
        attachment.send(FrameKind::Stdin, &[b'x'; 10_000]);
    }
    attachment.send(FrameKind::Stdin, b"");
    assert_eq!(attachment.read_to_end(), "1000000\n");
}

#[test]
fn without_standard_input_there_is_none() {
    let pod = Pod::started();
    pod.create("a", &Recipe::new("wc -c"));
    let mut attachment = pod.attach("a");
    attachment.send(FrameKind::Stdin, b"ignored");
    start(&pod, "a");
    assert_eq!(attachment.read_to_end(), "0\n");
}

#[test]
fn standard_input_outlives_a_client_unless_it_is_for_one_only() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("while read line; do echo got $line; done; echo end");
    recipe.stdin = true;
    pod.create("many", &recipe);
    recipe.stdin_once = true;
    pod.create("once", &recipe);
    for name in ["many", "once"] {
        start(&pod, name);
        let mut attachment = pod.attach(name);
        attachment.send(FrameKind::Stdin, b"one\n");
        attachment.read_until("got one\n");
    }
    assert_eq!(pod.wait("once").exit_code, 0);
    assert_eq!(pod.log("once"), ["stdout F got one", "stdout F end"]);
    let mut attachment = pod.attach("many");
    attachment.send(FrameKind::Stdin, b"two\n");
    attachment.read_until("got two\n");
    attachment.send(FrameKind::Stdin, b"");
    attachment.read_until("end\n");
}

#[test]
fn a_terminal_has_the_size_that_it_is_given() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("read x; stty size; read x; stty size; echo bye >&2");
    (recipe.terminal, recipe.stdin) = (true, true);
    pod.create("a", &recipe);
    let mut attachment = pod.attach("a");
    start(&pod, "a");
    attachment.send(FrameKind::Resize, &resize_payload(101, 37));
    attachment.send(FrameKind::Stdin, b"\n");
    attachment.read_until("37 101\r\n");
    pod.done(&Request::Resize {
        id: "a".into(),
        width: 55,
        height: 44,
    });
    attachment.send(FrameKind::Stdin, b"\n");
    attachment.read_until("44 55\r\n");
    attachment.read_to_end();
    assert!(attachment.text_of(FrameKind::Stdout).ends_with("bye\r\n"));
    assert_eq!(attachment.text_of(FrameKind::Stderr), "");
    assert_eq!(pod.wait("a").exit_code, 0);
    assert!(pod.log("a").contains(&"stdout F 37 101\r".to_owned()));
    let resize = Request::Resize {
        id: "a".into(),
        width: 1,
        height: 1,
    };
    assert_eq!(pod.refused(&resize).0, FailureKind::WrongState);
}

#[test]
fn a_terminal_comes_through_however_long_the_pods_path_is() {
    let mut pod = Pod::new();
    pod.dir = pod.dir.join("d".repeat(120));
    std::fs::create_dir(&pod.dir).unwrap();
    pod.start();
    let mut recipe = Recipe::new("echo hello");
    recipe.terminal = true;
    pod.create("a", &recipe);
    let mut attachment = pod.attach("a");
    start(&pod, "a");
    assert_eq!(attachment.read_to_end(), "hello\r\n");
    pod.shutdown();
}

#[test]
fn a_terminal_is_told_the_end_of_input() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("cat; echo end");
    (recipe.terminal, recipe.stdin) = (true, true);
    pod.create("a", &recipe);
    start(&pod, "a");
    let mut attachment = pod.attach("a");
    attachment.send(FrameKind::Stdin, b"hello\n");
    attachment.send(FrameKind::Stdin, b"");
    assert!(attachment.read_to_end().ends_with("hello\r\nend\r\n"));
}

#[test]
fn a_client_that_is_killed_leaves_the_container_alone() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("while read line; do echo $line; done");
    recipe.stdin = true;
    pod.create("a", &recipe);
    start(&pod, "a");
    let mut attachment = pod.attach("a");
    // In the middle of a frame.
    std::io::Write::write_all(&mut attachment.stream, &[0, 0, 0, 1, 0, b'x']).unwrap();
    drop(attachment);
    let mut attachment = pod.attach("a");
    attachment.send(FrameKind::Stdin, b"still here\n");
    attachment.read_until("still here\n");
}

#[test]
fn a_client_that_does_not_read_stops_nothing_and_is_dropped() {
    let pod = Pod::started();
    pod.create("a", &Recipe::new("yes | head -c 3000000; sleep 1000"));
    let mut idle = pod.attach("a");
    start(&pod, "a");
    // Read while it grows, the file may end in the middle of a line.
    eventually("all output is logged", || {
        let text = std::fs::read(pod.log_path("a")).unwrap();
        text.iter().filter(|byte| **byte == b'\n').count() == 1_500_000
    });
    // What was queued comes, and the reason why no more does.
    let text = idle.read_to_end();
    assert!(text.ends_with("berth: detached, since output was not read for too long\n"));
    assert!(text.len() < 2_000_000, "{} bytes were kept", text.len());
}

#[test]
fn a_client_that_reads_gets_all_output_however_much() {
    let pod = Pod::started();
    pod.create("a", &Recipe::new("yes | head -c 20000000"));
    let mut attachment = pod.attach("a");
    start(&pod, "a");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(attachment.read_to_end().len(), 20_000_000);
}
