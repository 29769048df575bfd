//! From create to delete.

use berth_runtime::monitor::exits::read_exit;
use berth_runtime::monitor::protocol::{ContainerState, Event, FailureKind, Reply, Request};
use serde_json::json;

use crate::fixture::{Pod, Recipe, call_within, eventually};

fn id(name: &str) -> String {
    name.to_owned()
}

#[test]
fn exit_codes_and_signals_are_recorded() {
    let pod = Pod::started();
    let exit = pod.run("code", &Recipe::new("exit 42"));
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (42, None, false)
    );
    assert!(0 < exit.started_at && exit.started_at <= exit.finished_at);
    assert_eq!(read_exit(&pod.dir, "code").unwrap(), Some(exit));

    pod.create("signal", &Recipe::new("exec sleep 1000"));
    pod.done(&Request::Start { id: id("signal") });
    let kill = Request::Kill {
        id: id("signal"),
        signal: 9,
        all: false,
    };
    pod.done(&kill);
    let exit = pod.wait("signal");
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    let (kind, message) = pod.refused(&kill);
    assert_eq!(kind, FailureKind::WrongState, "{message}");
}

#[test]
fn all_processes_can_be_signalled() {
    let pod = Pod::started();
    pod.create(
        "a",
        &Recipe::new("trap 'exit 3' TERM; echo ready; sleep 1000 & wait"),
    );
    pod.done(&Request::Start { id: id("a") });
    eventually("the trap is set", || pod.log("a") == ["stdout F ready"]);
    pod.done(&Request::Kill {
        id: id("a"),
        signal: 15,
        all: true,
    });
    assert_eq!(pod.wait("a").exit_code, 3);
}

#[test]
fn a_container_passes_through_its_states() {
    let pod = Pod::started();
    let state = || match pod.call(&Request::Status { id: Some(id("a")) }) {
        Reply::Containers { containers } => containers[0].clone(),
        other => panic!("{other:?}"),
    };
    let pid = pod.create("a", &Recipe::new("sleep 1000"));
    assert_eq!((state().state, state().pid), (ContainerState::Created, pid));
    pod.done(&Request::Start { id: id("a") });
    assert_eq!(state().state, ContainerState::Running);
    let (kind, _) = pod.refused(&Request::Start { id: id("a") });
    assert_eq!(kind, FailureKind::WrongState);
    pod.done(&Request::Kill {
        id: id("a"),
        signal: 9,
        all: false,
    });
    pod.wait("a");
    assert_eq!((state().state, state().pid), (ContainerState::Exited, 0));
    pod.done(&Request::Delete { id: id("a") });
    pod.done(&Request::Delete { id: id("a") });
    let (kind, _) = pod.refused(&Request::Status { id: Some(id("a")) });
    assert_eq!(kind, FailureKind::NotFound);
}

#[test]
fn a_created_container_that_is_never_started_can_be_deleted() {
    let pod = Pod::started();
    pod.create("a", &Recipe::new("true"));
    pod.done(&Request::Delete { id: id("a") });
    let exit = read_exit(&pod.dir, "a").unwrap().unwrap();
    assert_eq!((exit.signal, exit.started_at), (Some(9), 0));
}

#[test]
fn subscribers_hear_of_everything_in_order() {
    let pod = Pod::started();
    let mut events = pod.subscribe();
    let exit = pod.run("a", &Recipe::new("exit 7"));
    pod.done(&Request::Delete { id: id("a") });
    assert!(matches!(events.next(), Event::Created { id, .. } if id == "a"));
    assert!(matches!(events.next(), Event::Started { id, .. } if id == "a"));
    assert_eq!(events.next(), Event::Exited(exit));
    assert!(matches!(events.next(), Event::Deleted { id, .. } if id == "a"));
}

#[test]
fn the_oom_killer_is_noticed() {
    let pod = Pod::started();
    let mut events = pod.subscribe();
    let mut recipe = Recipe::new("x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived");
    recipe.change = |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    };
    let exit = pod.run("a", &recipe);
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true), "{exit:?}");
    let mut told = false;
    loop {
        match events.next() {
            Event::OomKilled { .. } => told = true,
            Event::Exited(_) => break,
            _ => {}
        }
    }
    assert!(told, "no event told of it before the end");
}

#[test]
fn the_oom_killer_is_noticed_when_it_spares_the_init() {
    let pod = Pod::started();
    let mut events = pod.subscribe();
    let mut recipe = Recipe::new("dd if=/dev/zero of=/dev/null bs=100000000 count=1; sleep 1000");
    recipe.change = |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    };
    pod.create("a", &recipe);
    pod.done(&Request::Start { id: id("a") });
    while !matches!(events.next(), Event::OomKilled { .. }) {}
    pod.done(&Request::Kill {
        id: id("a"),
        signal: 9,
        all: false,
    });
    assert!(pod.wait("a").oom_killed);
}

#[test]
fn a_failing_create_says_why_and_leaves_nothing() {
    let pod = Pod::started();
    let mut recipe = Recipe::new("true");
    recipe.change = |config| config["process"]["args"] = json!(["/no/such/program"]);
    match pod.try_create("a", &recipe) {
        Reply::Failed { kind, message } => {
            assert_eq!(kind, FailureKind::Runtime);
            assert!(message.starts_with("create a: "), "{message}");
            assert!(message.contains("/no/such/program"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let (kind, _) = pod.refused(&Request::Start { id: id("a") });
    assert_eq!(kind, FailureKind::NotFound);
    assert!(!pod.log_path("a").exists());
    // The name is free again.
    std::fs::remove_dir_all(pod.log_path("a").with_file_name("bundle-a")).unwrap();
    assert_eq!(pod.run("a", &Recipe::new("exit 5")).exit_code, 5);
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_connection_goes_on() {
    use std::io::{BufRead as _, Write as _};
    let pod = Pod::started();
    let mut stream = std::os::unix::net::UnixStream::connect(pod.dir.join("monitor.sock")).unwrap();
    stream
        .write_all(b"nonsense\n{\"call\":\"wait\",\"id\":\"x\"}\n")
        .unwrap();
    let mut lines = std::io::BufReader::new(stream).lines();
    let first: Reply = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(
        matches!(
            first,
            Reply::Failed {
                kind: FailureKind::BadRequest,
                ..
            }
        ),
        "{first:?}"
    );
    let second: Reply = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(
        matches!(
            second,
            Reply::Failed {
                kind: FailureKind::NotFound,
                ..
            }
        ),
        "{second:?}"
    );
    let (kind, message) = pod.refused(&Request::Kill {
        id: id("x"),
        signal: 99,
        all: false,
    });
    assert_eq!(kind, FailureKind::BadRequest);
    assert!(message.contains("expected 1 to 64, found 99"), "{message}");
    match pod.try_create("../x", &Recipe::new("true")) {
        Reply::Failed {
            kind: FailureKind::BadRequest,
            message,
        } => {
            assert!(message.starts_with("id: expected"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_containers_run_side_by_side() {
    let pod = Pod::started();
    std::thread::scope(|scope| {
        for number in 0..5 {
            let pod = &pod;
            scope.spawn(move || {
                let name = format!("c{number}");
                let script = format!("echo {number}; exit {number}");
                assert_eq!(pod.run(&name, &Recipe::new(&script)).exit_code, number);
                assert_eq!(pod.log(&name), [format!("stdout F {number}")]);
            });
        }
    });
    // A client that is gone before its answer disturbs nobody.
    drop(pod.client());
    match call_within(pod.client(), &Request::Status { id: None }) {
        Reply::Containers { containers } => assert_eq!(containers.len(), 5),
        other => panic!("{other:?}"),
    }
}
