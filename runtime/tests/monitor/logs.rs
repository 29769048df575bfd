//! Output in the log.

use std::fs;

use berth_runtime::monitor::protocol::{FailureKind, Request};

use crate::fixture::{Pod, Recipe, eventually, read_log};

#[test]
fn both_streams_are_logged_in_the_cri_format() {
    let pod = Pod::started();
    let exit = pod.run("a", &Recipe::new("echo out; echo err >&2; printf 'no end'"));
    assert_eq!((exit.exit_code, exit.signal), (0, None));
    let mut log = pod.log("a");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout P no end"]);
}

#[test]
fn a_long_line_is_cut_into_partial_lines_and_nothing_is_lost() {
    let pod = Pod::started();
    let script = "head -c 20000 /dev/zero | tr '\\0' x; echo; echo after";
    pod.run("a", &Recipe::new(script));
    let log = pod.log("a");
    let tags: Vec<&str> = log.iter().map(|line| &line[..9]).collect();
    assert_eq!(tags, ["stdout P ", "stdout P ", "stdout F ", "stdout F "]);
    let lengths: Vec<usize> = log.iter().map(|line| line.len() - 9).collect();
    assert_eq!(lengths, [8192, 8192, 20000 - 2 * 8192, 5]);
}

#[test]
fn much_output_right_before_the_end_is_logged_whole() {
    let pod = Pod::started();
    pod.run("a", &Recipe::new("yes 0123456789 | head -n 200000"));
    let log = pod.log("a");
    assert_eq!(log.len(), 200_000);
    assert!(log.iter().all(|line| line == "stdout F 0123456789"));
}

#[test]
fn a_rotated_log_is_opened_again() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("while read line; do echo $line; done");
    recipe.stdin = true;
    pod.create("a", &recipe);
    pod.done(&Request::Start { id: "a".into() });
    let mut attachment = pod.attach("a");
    let say = berth_runtime::monitor::protocol::FrameKind::Stdin;
    attachment.send(say, b"one\n");
    eventually("the first line", || pod.log("a").len() == 1);
    let rotated = pod.log_path("a.1");
    fs::rename(pod.log_path("a"), &rotated).unwrap();
    attachment.send(say, b"two\n");
    eventually("the second line in the old file", || {
        read_log(&rotated).len() == 2
    });
    pod.done(&Request::ReopenLog { id: "a".into() });
    attachment.send(say, b"three\n");
    eventually("the third line", || pod.log("a").len() == 1);
    assert_eq!(read_log(&rotated), ["stdout F one", "stdout F two"]);
    assert_eq!(pod.log("a"), ["stdout F three"]);
    attachment.send(say, b"");
    assert_eq!(pod.wait("a").exit_code, 0);
    let (kind, _) = pod.refused(&Request::ReopenLog { id: "a".into() });
    assert_eq!(kind, FailureKind::WrongState);
}
