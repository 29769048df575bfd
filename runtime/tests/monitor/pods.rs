//! The monitor itself: namespaces, shutdown, failures of the setup.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_runtime::monitor::protocol::{CONFIG_NAME, PodNamespace, Reply, Request};
use berth_runtime::monitor::remove_remains;
use serde_json::json;

use crate::fixture::{ALL_NAMESPACES, Pod, Recipe, eventually, join_pod};

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn containers_share_the_pods_namespaces_and_shutdown_leaves_nothing() {
    let mut pod = Pod::new();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.config.hostname = Some("harbour".into());
    pod.config.sysctls = [
        (
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "77".to_owned(),
        ),
        ("kernel.shmmni".to_owned(), "99".to_owned()),
    ]
    .into();
    pod.start();
    for name in ["net", "ipc", "uts", "pid"] {
        let ours = inode(format!("/proc/thread-self/ns/{name}"));
        assert_ne!(inode(pod.dir.join("ns").join(name)), ours, "{name}");
    }
    let script =
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
    let mut recipe = Recipe::new(script);
    recipe.change = join_pod;
    pod.run("a", &recipe);
    assert_eq!(
        pod.log("a"),
        ["stdout F harbour", "stdout F 77", "stdout F 99"]
    );

    // The namespace of processes outlives its first container, and process 1
    // collects its orphans.
    let mut recipe = Recipe::new("(sleep 0.1 &) ; ps -o pid,stat,args; exec sleep 1000");
    recipe.change = join_pod;
    let pid = pod.create("b", &recipe);
    pod.done(&Request::Start { id: "b".into() });
    eventually("ps", || {
        pod.log("b")
            .iter()
            .any(|line| line.contains("berth-pod-init") || line.contains(" 1 "))
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    let zombies = zombies_in(inode(pod.dir.join("ns/pid")));
    assert_eq!(zombies, Vec::<String>::new());
    assert_eq!(
        inode(format!("/proc/{pid}/ns/pid")),
        inode(pod.dir.join("ns/pid"))
    );

    let monitor = pod.monitor_pid();
    pod.shutdown();
    eventually("the monitor ends", || {
        !Path::new(&format!("/proc/{monitor}")).exists()
    });
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    pod.assert_clean();
    assert!(pod.dir.join("exits/b.json").exists());
}

fn zombies_in(pid_namespace: u64) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| {
            let namespace = fs::metadata(entry.path().join("ns/pid")).ok()?.ino();
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (namespace == pid_namespace && stat.contains(") Z ")).then_some(stat)
        })
        .collect()
}

#[test]
fn the_pods_process_1_is_no_way_to_the_host() {
    let mut pod = Pod::new();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.start();
    let script =
        "cat /proc/1/comm; ls -A /proc/1/root/ | wc -l; : > /proc/1/exe; ls -A /proc/1/root/..";
    let mut recipe = Recipe::new(script);
    recipe.change = join_pod;
    pod.run("plain", &recipe);
    let log = pod.log("plain").join("\n");
    assert!(log.contains("stdout F berth-pod-init"), "{log}");
    assert!(log.contains("/proc/1/exe: Permission denied"), "{log}");
    // Now one that may look into other processes.
    recipe.change = |config| {
        join_pod(config);
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
        config["process"]["capabilities"] =
            json!({"bounding": all, "effective": all, "permitted": all});
    };
    pod.run("tracer", &recipe);
    let mut log = pod.log("tracer");
    log.sort();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(
        log[0].ends_with("/proc/1/exe: Read-only file system"),
        "{log:?}"
    );
    assert_eq!(log[1..], ["stdout F 0", "stdout F berth-pod-init"]);
}

#[test]
fn a_shutdown_ends_what_runs() {
    let mut pod = Pod::started();
    pod.create("created", &Recipe::new("true"));
    pod.create(
        "running",
        &Recipe::new("trap '' TERM; while :; do sleep 1; done"),
    );
    pod.done(&Request::Start {
        id: "running".into(),
    });
    pod.run("exited", &Recipe::new("true"));
    let waiting = pod.client();
    let waiter = std::thread::spawn(move || {
        crate::fixture::call_within(
            waiting,
            &Request::Wait {
                id: "running".into(),
            },
        )
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    pod.shutdown();
    match waiter.join().unwrap() {
        Reply::Exited(record) => assert_eq!(record.signal, Some(9)),
        other => panic!("{other:?}"),
    }
    pod.assert_clean();
}

#[test]
fn sigterm_is_a_shutdown() {
    let mut pod = Pod::new();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.start();
    pod.create("a", &Recipe::new("sleep 1000"));
    let monitor = pod.monitor_pid();
    berth_runtime::sys::process::kill(berth_runtime::sys::process::HostPid(monitor), 15).unwrap();
    eventually("the monitor ends", || {
        !Path::new(&format!("/proc/{monitor}")).exists()
    });
    pod.assert_clean();
}

#[test]
fn what_a_killed_monitor_leaves_can_be_removed() {
    let mut pod = Pod::new();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.start();
    let namespace = inode(pod.dir.join("ns/pid"));
    assert!(remove_remains(&pod.dir).is_err(), "it is alive");
    let monitor = pod.monitor_pid();
    berth_runtime::sys::process::kill(berth_runtime::sys::process::HostPid(monitor), 9).unwrap();
    eventually("the monitor ends", || {
        !Path::new(&format!("/proc/{monitor}")).exists()
    });
    eventually("the pod's process 1 ends with it", || {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok())
            .all(|entry| {
                fs::metadata(entry.path().join("ns/pid"))
                    .map(|found| found.ino())
                    .ok()
                    != Some(namespace)
            })
    });
    remove_remains(&pod.dir).unwrap();
    remove_remains(&pod.dir).unwrap();
    fs::remove_file(pod.dir.join("monitor.log")).unwrap();
    pod.assert_clean();
    pod.start();
}

#[test]
fn a_bad_configuration_is_a_clear_error_and_leaves_nothing() {
    let mut pod = Pod::new();
    let words = |pod: &Pod| {
        let output = pod.try_start();
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8(output.stderr).unwrap();
        pod.assert_clean();
        words
    };
    pod.config.namespaces = vec![PodNamespace::Net];
    pod.config.sysctls = [("vm.swappiness".to_owned(), "0".to_owned())].into();
    assert!(words(&pod).contains("sysctls[\"vm.swappiness\"]: expected"));
    // Judged by the kernel, after the namespaces were made.
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.config.sysctls = [("net.ipv4.no_such".to_owned(), "0".to_owned())].into();
    let text = words(&pod);
    assert!(
        text.contains("set sysctl net.ipv4.no_such") && text.contains("No such file"),
        "{text}"
    );
    pod.config.sysctls = [("net.ipv4.ip_forward".to_owned(), "maybe".to_owned())].into();
    let text = words(&pod);
    assert!(
        text.contains("ip_forward to \"maybe\"") && text.contains("Invalid"),
        "{text}"
    );

    fs::write(pod.dir.join(CONFIG_NAME), b"{\"pod_id\": 1}").unwrap();
    let output = pod.run_monitor();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("monitor.json") && text.contains("line 1"),
        "{text}"
    );
    fs::remove_file(pod.dir.join(CONFIG_NAME)).unwrap();
    let output = pod.run_monitor();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("read "));
}

#[test]
fn a_second_monitor_is_refused_and_a_dead_runtime_reported() {
    let mut pod = Pod::new();
    pod.config.oci_runtime = "/no/such/runtime".into();
    pod.start();
    let output = pod.try_start();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("already runs")
    );
    match pod.try_create("a", &Recipe::new("true")) {
        Reply::Failed { message, .. } => assert!(message.contains("/no/such/runtime"), "{message}"),
        other => panic!("{other:?}"),
    }
    pod.shutdown();
    pod.assert_clean();
}

#[test]
fn a_monitor_is_counted_in_its_group_and_removes_it() {
    let mut pod = Pod::new();
    pod.config.namespaces = vec![PodNamespace::Pid];
    pod.config.cgroup = Some(format!("{}/monitor", pod.cgroup));
    pod.start();
    pod.run("a", &Recipe::new("true"));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pod.monitor_pid())).unwrap();
    let wanted = format!(":{}/monitor", pod.cgroup);
    // A hierarchy may exist and be mounted nowhere: nobody can enter that.
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mounted = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let entered = groups.lines().filter(|line| line.ends_with(&wanted));
    assert_eq!(entered.count(), mounted.count(), "{groups}");
    pod.shutdown();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let group = hierarchy.unwrap().path().join(&pod.cgroup[1..]);
        assert!(!group.exists(), "{} is left", group.display());
    }
    // A setup that fails later leaves none either.
    pod.config.sysctls = [("net.ipv4.no_such".to_owned(), "0".to_owned())].into();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    assert_eq!(pod.try_start().status.code(), Some(1));
    let left = Path::new("/sys/fs/cgroup/memory").join(&pod.cgroup[1..]);
    assert!(!left.exists());
    pod.assert_clean();
}

#[test]
fn a_starter_that_ignores_its_children_changes_nothing() {
    let mut pod = Pod::new();
    pod.write_config();
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' CHLD; exec \"$0\" monitor \"$1\""])
        .arg(env!("CARGO_BIN_EXE_berth-oci"))
        .arg(&pod.dir)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(pod.run("a", &Recipe::new("exit 6")).exit_code, 6);
    pod.shutdown();
}

#[test]
fn a_monitor_is_small() {
    let mut pod = Pod::new();
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.start();
    for name in ["a", "b"] {
        let mut recipe = Recipe::new("yes | head -c 1000000; exec sleep 1000");
        recipe.change = join_pod;
        pod.create(name, &recipe);
        let mut attachment = pod.attach(name);
        pod.done(&Request::Start { id: name.into() });
        while attachment.seen.len() < 1_000_000 {
            assert!(attachment.read());
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let status = fs::read_to_string(format!("/proc/{}/status", pod.monitor_pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let resident = field("VmRSS:");
    println!(
        "monitor with two containers: {resident} KiB resident, {} of them its own",
        field("RssAnon:")
    );
    assert_eq!(field("Threads:"), 1);
    // The shipped, static build; one for debugging is larger.
    if std::env::var_os("MONITOR_UNDER_TEST").is_some() {
        assert!(resident < 2048, "{resident} KiB");
    }
}

#[test]
fn a_runtime_that_hangs_holds_up_nobody_else_and_no_shutdown_for_ever() {
    let mut pod = Pod::new();
    // As the configured runtime, but `create` of the container "slow" hangs.
    let wrapper = pod.dir.with_file_name("runtime");
    let real = pod.config.oci_runtime.display();
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\n\
         case \"$*\" in *create*) [ $last = slow ] && exec sleep 1000;; esac\nexec {real} \"$@\"\n"
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(
        &wrapper,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    pod.config.oci_runtime = wrapper;
    pod.config.namespaces = ALL_NAMESPACES.to_vec();
    pod.start();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let reply = pod.try_create("slow", &Recipe::new("true"));
            assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
        });
        // These are answered while it hangs.
        assert_eq!(pod.run("quick", &Recipe::new("exit 4")).exit_code, 4);
        pod.done(&Request::Delete { id: "quick".into() });
        let started = std::time::Instant::now();
        let reply = pod.call(&Request::Shutdown);
        assert_eq!(reply, Reply::Done);
        assert!(started.elapsed().as_secs() < 15);
        slow.join().unwrap();
    });
    pod.assert_clean();
}
