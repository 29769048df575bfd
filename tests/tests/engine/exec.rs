//! One more program in a container.

use std::time::{Duration, Instant};

use berth_cri::engine::attach::Output;
use berth_cri::engine::error::ErrorKind;
use berth_cri::engine::exec::{ExecIo, ExecRequest, TerminalSize};
use berth_cri::service::CriService;
use berth_cri::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc;

use crate::world::{remove_sandbox, run, run_container, run_sandbox, until};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_command_is_run_and_collected() {
    run("exec::a_command_is_run_and_collected", |world| async move {
        let engine = world.engine_with_image().await;
        let pod = run_sandbox(&engine, world.sandbox("exec")).await;
        let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
        let exec = |script: &str, timeout: i64| {
            engine.exec_sync(v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: words(&["sh", "-c", script]),
                timeout,
            })
        };
        let done = exec("echo out; echo err >&2; exit 5", 0).await.unwrap();
        assert_eq!(done.stdout, b"out\n");
        assert_eq!(done.stderr, b"err\n");
        assert_eq!(done.exit_code, 5);

        let begin = Instant::now();
        let late = exec("sleep 60", 1).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        assert!(begin.elapsed() < Duration::from_secs(10));
        // It does not run on in the container.
        until("the late command is gone", || async {
            let processes = engine.processes(&id).await.unwrap();
            !processes
                .iter()
                .any(|process| process.command.contains("sleep 60"))
        })
        .await;

        let missing = engine
            .exec_sync(v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: words(&["/no/such/program"]),
                timeout: 0,
            })
            .await;
        assert!(missing.is_err() || missing.unwrap().exit_code != 0);

        let user = ExecRequest {
            arguments: words(&["sh", "-c", "id -u; echo $A; pwd"]),
            environment: words(&["A=b"]),
            user: Some("65534".to_owned()),
            working_directory: Some("/tmp".to_owned()),
            ..Default::default()
        };
        let output = engine
            .exec_collect(&id, &user, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "65534\nb\n/tmp\n"
        );
        remove_sandbox(&engine, &pod).await;
        let gone = engine
            .exec_collect(&id, &user, Duration::ZERO)
            .await
            .unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_command_reads_what_the_client_writes() {
    run(
        "exec::a_command_reads_what_the_client_writes",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("pipes")).await;
            let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
            let (mut keys, stdin) = duplex(1 << 16);
            let (stdout, mut output) = duplex(1 << 16);
            let (stderr, _errors) = duplex(1 << 16);
            let request = ExecRequest {
                arguments: words(&["sh", "-c", "cat; exit 4"]),
                ..Default::default()
            };
            let io = ExecIo {
                stdin: Some(Box::new(stdin)),
                stdout: Box::new(stdout),
                stderr: Box::new(stderr),
                resize: None,
            };
            keys.write_all(b"over and out\n").await.unwrap();
            drop(keys);
            let code = engine.exec(&id, &request, io).await.unwrap();
            assert_eq!(code, 4);
            let mut text = String::new();
            output.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "over and out\n");
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_command_has_a_terminal_of_the_clients_size() {
    run(
        "exec::a_command_has_a_terminal_of_the_clients_size",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("tty")).await;
            let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
            let (mut keys, stdin) = duplex(1 << 16);
            let (stdout, mut output) = duplex(1 << 16);
            let (sizes, resize) = mpsc::channel(4);
            sizes
                .send(TerminalSize {
                    width: 123,
                    height: 45,
                })
                .await
                .unwrap();
            let request = ExecRequest {
                arguments: words(&[
                    "sh",
                    "-c",
                    "read line; tty; stty size; echo got $line; exit 6",
                ]),
                terminal: true,
                ..Default::default()
            };
            let io = ExecIo {
                stdin: Some(Box::new(stdin)),
                stdout: Box::new(stdout),
                stderr: Box::new(tokio::io::sink()),
                resize: Some(resize),
            };
            keys.write_all(b"keys\n").await.unwrap();
            let code = engine.exec(&id, &request, io).await.unwrap();
            assert_eq!(code, 6);
            let mut text = String::new();
            output.read_to_string(&mut text).await.unwrap();
            assert!(text.contains("/dev/pts/0"), "{text:?}");
            assert!(text.contains("45 123"), "{text:?}");
            assert!(text.contains("got keys"), "{text:?}");
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_client_that_goes_away_takes_its_command_along() {
    run(
        "exec::a_client_that_goes_away_takes_its_command_along",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("gone")).await;
            let id = run_container(&engine, &pod, world.container("main", "sleep 100")).await;
            let task = {
                let (engine, id) = (engine.clone(), id.clone());
                tokio::spawn(async move {
                    let request = ExecRequest {
                        arguments: words(&["sleep", "77"]),
                        ..Default::default()
                    };
                    let io = ExecIo {
                        stdin: None,
                        stdout: Box::new(tokio::io::sink()),
                        stderr: Box::new(tokio::io::sink()),
                        resize: None,
                    };
                    engine.exec(&id, &request, io).await
                })
            };
            let runs = || async {
                let processes = engine.processes(&id).await.unwrap();
                processes
                    .iter()
                    .any(|process| process.command.contains("sleep 77"))
            };
            until("the command runs", runs).await;
            task.abort();
            until("the command is gone", || async { !runs().await }).await;
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_client_is_joined_to_a_container() {
    run(
        "exec::a_client_is_joined_to_a_container",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("attach")).await;
            let script = "while read line; do echo got $line; done; echo end >&2";
            let mut config = world.container("main", script);
            config.stdin = true;
            config.stdin_once = true;
            let id = run_container(&engine, &pod, config).await;
            let mut attachment = engine.attach(&id).await.unwrap();
            assert!(!attachment.terminal);
            attachment.input.write(b"one\n").await.unwrap();
            assert_eq!(
                attachment.output.next().await.unwrap(),
                Some(Output::Stdout(b"got one\n".to_vec()))
            );
            attachment.input.close().await.unwrap();
            assert_eq!(
                attachment.output.next().await.unwrap(),
                Some(Output::Stderr(b"end\n".to_vec()))
            );
            assert_eq!(attachment.output.next().await.unwrap(), None);
            assert_eq!(engine.wait(&id).await.unwrap().exit_code, 0);
            remove_sandbox(&engine, &pod).await;
        },
    );
}
