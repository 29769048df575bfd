//! Who holds a container by descriptors: an agent that decides about system
//! calls, and callers that watch init.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::patience::stretched;
use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{Lab, holds, path, same};
use crate::outcome::{LIMIT, finish};

/// `ENOMEDIUM`, which no mkdir(2) answers by itself.
const ANSWER: i32 = 123;
const WORDS: &str = "No medium found";

/// A socket on which one message is awaited.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(lab: &Lab, name: &str) -> Result<Socket> {
        let path = lab.host.work_dir().join(name);
        let listener = UnixListener::bind(&path)?;
        Ok(Socket { listener, path })
    }

    /// One connection's text and descriptor, and the connection.
    fn receive(self) -> Result<(Vec<u8>, OwnedFd, UnixStream)> {
        await_input(&self.listener).context("nobody connected")?;
        let (stream, _) = self.listener.accept()?;
        await_input(&stream)?;
        let mut text = vec![0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        text.truncate(received.bytes);
        let rights = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut all) => all.next(),
            _ => None,
        });
        let descriptor = rights.ok_or_else(|| anyhow!("no descriptor came"))?;
        std::fs::remove_file(&self.path)?;
        Ok((text, descriptor, stream))
    }
}

fn await_input(file: impl AsFd) -> Result<()> {
    let mut watched = [PollFd::new(&file, PollFlags::IN)];
    let limit = stretched(LIMIT);
    let timeout = Timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    ensure!(
        poll(&mut watched, Some(&timeout))? == 1,
        "nothing came within {limit:?}"
    );
    Ok(())
}

/// An agent that answers one question with an error; its thread ends with what
/// it was told.
fn agent(lab: &Lab) -> Result<(PathBuf, JoinHandle<Result<Value>>)> {
    let socket = Socket::bind(lab, "agent.sock")?;
    let path = socket.path.clone();
    let thread = std::thread::spawn(move || {
        let (text, listener, stream) = socket.receive()?;
        await_input(&listener).context("no question")?;
        let question = ScmpNotifReq::receive(listener.as_raw_fd())?;
        let flags = ScmpNotifRespFlags::empty();
        ScmpNotifResp::new_error(question.id, -ANSWER, flags).respond(listener.as_raw_fd())?;
        // Nothing more comes: one state a connection. The elder two close it late.
        await_input(&stream)?;
        let more = std::io::Read::read(&mut &stream, &mut [0; 1])?;
        ensure!(more == 0, "the connection goes on");
        Ok(serde_json::from_slice(&text)?)
    });
    Ok((path, thread))
}

fn finished(thread: JoinHandle<Result<Value>>) -> Result<Value> {
    thread.join().map_err(|_| anyhow!("the agent panicked"))?
}

fn ask(config: &mut Value, agent: &std::path::Path) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": agent,
        "listenerMetadata": "words for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    config["annotations"] = json!({"note": "kept"});
}

#[test]
fn an_agent_decides_about_a_call() {
    check(Who::All, |lab| {
        for privileges in [true, false] {
            let (path, thread) = agent(lab)?;
            let told = lab.run("mkdir /new; echo after", |config| {
                ask(config, &path);
                config["process"]["noNewPrivileges"] = json!(privileges);
            })?;
            holds(&told.stderr, &[WORDS])?;
            same(told.stdout.trim(), "after")?;
            let state = finished(thread)?;
            ensure!(state["fds"] == json!(["seccompFd"]), "{state}");
            ensure!(state["metadata"] == "words for the agent", "{state}");
            ensure!(state["ociVersion"].is_string(), "{state}");
            let pid = state["pid"].as_i64().unwrap_or(0);
            ensure!(pid > 1 && state["state"]["pid"] == pid, "{state}");
            ensure!(state["state"]["id"] == "c", "{state}");
            ensure!(state["state"]["annotations"]["note"] == "kept", "{state}");
            ensure!(state["state"]["bundle"].is_string(), "{state}");
        }
        Ok(())
    });
}

#[test]
fn an_agent_is_told_when_start_comes() {
    check(Who::Berth, |lab| {
        let (socket, thread) = agent(lab)?;
        let bundle = lab.bundle("c", |config| {
            ask(config, &socket);
            config["process"]["args"] = json!(["sh", "-c", "mkdir /new 2>/told; sleep 1000"]);
        })?;
        let created = lab.call(&["create", "--bundle", path(&bundle), "c"])?;
        created.text()?;
        let pid = lab.pid("c")?;
        lab.call(&["start", "c"])?.text()?;
        let state = finished(thread)?;
        ensure!(
            state["pid"] == pid && state["state"]["status"] == "created",
            "{state}"
        );
        crate::lab::eventually(|| {
            holds(
                std::fs::read_to_string(bundle.join("rootfs/told"))?,
                &[WORDS],
            )
        })?;
        lab.remove("c")
    });
}

#[test]
fn an_agent_decides_for_exec_too() {
    check(Who::Berth, |lab| {
        let (path, first) = agent(lab)?;
        lab.start("c", |config| {
            ask(config, &path);
            config["process"]["args"] = json!(["sh", "-c", "mkdir /new; sleep 1000"]);
        })?;
        finished(first)?;
        let (_, second) = agent(lab)?;
        let told = lab.call(&["exec", "c", "mkdir", "/other"])?;
        holds(told.complaint()?, &[WORDS])?;
        let state = finished(second)?;
        ensure!(state["state"]["status"] == "running", "{state}");
        ensure!(state["state"]["pid"] == lab.pid("c")?, "{state}");
        ensure!(state["pid"] != state["state"]["pid"], "{state}");
        lab.remove("c")
    });
}

#[test]
fn what_the_runtime_itself_calls_may_be_asked_about() {
    check(Who::Berth, |lab| {
        // sendmsg and connect are not init's to call once the filter holds.
        let (path, thread) = agent(lab)?;
        let told = lab.run("mkdir /new; echo after", |config| {
            ask(config, &path);
            let refused = json!({"names": ["sendmsg", "connect", "recvmsg", "recvfrom"], "action": "SCMP_ACT_ERRNO"});
            crate::lab::add(&mut config["linux"]["seccomp"]["syscalls"], refused);
            let flags = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]);
            config["linux"]["seccomp"]["flags"] = flags;
        })?;
        holds(&told.stderr, &[WORDS])?;
        same(told.stdout.trim(), "after")?;
        finished(thread).map(drop)
    });
}

#[test]
fn an_agent_that_is_not_there_ends_the_container() {
    check(Who::Berth, |lab| {
        let nowhere = lab.host.work_dir().join("nobody.sock");
        let told = lab.run("mkdir /new", |config| ask(config, &nowhere))?;
        holds(
            told.complaint()?,
            &["linux.seccomp.listenerPath", "nobody.sock"],
        )?;
        ensure!(!lab.root().join("c").exists(), "the id is free again");
        lab.create("d", |config| ask(config, &nowhere))?;
        let told = lab.call(&["start", "d"])?;
        holds(told.complaint()?, &["linux.seccomp.listenerPath"])?;
        lab.wait_for("d", "stopped")?;
        lab.remove("d")
    });
}

#[test]
fn what_would_hang_is_refused() {
    check(Who::Berth, |lab| {
        let change = |field: &str, value: Value| {
            let told = lab.run("true", |config| {
                ask(config, std::path::Path::new("/agent.sock"));
                config["linux"]["seccomp"][field] = value;
            });
            told.and_then(|told| told.complaint().map(str::to_owned))
        };
        let rule = json!([{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]);
        holds(
            change("syscalls", rule)?,
            &["syscalls[0].action", "cannot be used for write"],
        )?;
        let told = change("defaultAction", json!("SCMP_ACT_NOTIFY"))?;
        holds(
            told,
            &["linux.seccomp.defaultAction", "cannot be the default"],
        )?;
        let told = change("listenerPath", json!(""))?;
        holds(told, &["linux.seccomp.listenerMetadata"])
    });
}

#[test]
fn crun_s_annotation_names_the_agent_too() {
    check(Who::Berth, |lab| {
        let (path, thread) = agent(lab)?;
        let told = lab.run("mkdir /new", |config| {
            ask(config, std::path::Path::new("/nowhere"));
            config["annotations"]["run.oci.seccomp.receiver"] = json!(path);
        })?;
        holds(&told.stderr, &[WORDS])?;
        finished(thread).map(drop)
    });
}

/// The process that a descriptor stands for.
fn pid_of(descriptor: &OwnedFd) -> Result<u32> {
    let file = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    Ok(line.context("it is of a process")?.trim().parse()?)
}

#[test]
fn a_caller_holds_init_and_what_exec_adds() {
    check(Who::Berth, |lab| {
        let socket = Socket::bind(lab, "pidfd.sock")?;
        let bundle = lab.bundle("c", crate::lab::as_is)?;
        let words = [
            "create",
            "--pidfd-socket",
            path(&socket.path),
            "--bundle",
            path(&bundle),
            "c",
        ];
        lab.call(&words)?.text()?;
        let (told, descriptor, _) = socket.receive()?;
        same(String::from_utf8_lossy(&told), "standard")?;
        ensure!(pid_of(&descriptor)? == lab.pid("c")?);
        lab.call(&["start", "c"])?.text()?;
        let socket = Socket::bind(lab, "pidfd.sock")?;
        let file = lab.host.work_dir().join("exec.pid");
        let words = [
            "exec",
            "--detach",
            "--pid-file",
            path(&file),
            "--pidfd-socket",
            path(&socket.path),
            "c",
            "sleep",
            "1000",
        ];
        lab.call(&words)?.text()?;
        let (told, descriptor, _) = socket.receive()?;
        same(String::from_utf8_lossy(&told), "setns")?;
        let pid: u32 = std::fs::read_to_string(file)?.trim().parse()?;
        ensure!(pid_of(&descriptor)? == pid);
        lab.remove("c")
    });
}

#[test]
fn crun_s_annotation_asks_for_a_descriptor_too() {
    check(Who::Berth, |lab| {
        let socket = Socket::bind(lab, "pidfd.sock")?;
        lab.create("c", |config| {
            config["annotations"] = json!({"run.oci.pidfd_receiver": socket.path});
        })?;
        let (_, descriptor, _) = socket.receive()?;
        ensure!(pid_of(&descriptor)? == lab.pid("c")?);
        lab.remove("c")
    });
}

/// A service manager's socket, and a container whose program tells where it may speak.
struct Service {
    manager: UnixDatagram,
    socket: PathBuf,
    bundle: PathBuf,
}

impl Service {
    fn new(lab: &Lab, program: &str) -> Result<Service> {
        let socket = lab.host.work_dir().join("notify.sock");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(stretched(LIMIT)))?;
        let script = format!("[ -S $NOTIFY_SOCKET ] && echo $NOTIFY_SOCKET >told; {program}");
        let bundle = lab.bundle("c", |config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
        })?;
        Ok(Service {
            manager,
            socket,
            bundle,
        })
    }

    fn command(&self, lab: &Lab, words: &[&str]) -> std::process::Command {
        let mut command = lab.command(words);
        command.env("NOTIFY_SOCKET", &self.socket);
        command
    }

    /// Says something where the container's program would say it.
    fn say(&self, lab: &Lab, words: &str) -> Result<()> {
        let inside = crate::lab::eventually(|| {
            let told = std::fs::read_to_string(self.bundle.join("rootfs/told"))?;
            ensure!(!told.is_empty(), "nothing is told yet");
            Ok(told)
        })?;
        same(inside.trim(), "/run/notify/notify.sock")?;
        let path = format!("/proc/{}/root{}", lab.pid("c")?, inside.trim());
        UnixDatagram::unbound()?.send_to(words.as_bytes(), path)?;
        Ok(())
    }

    fn hear(&self) -> Result<String> {
        let mut told = [0; 200];
        let length = self.manager.recv(&mut told).context("nothing was told")?;
        Ok(String::from_utf8_lossy(&told[..length]).into_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn start_waits_until_the_program_is_ready_and_tells_the_service_manager() {
    check(Who::Berth, |lab| {
        let service = Service::new(lab, "sleep 1000")?;
        let create = ["create", "--bundle", path(&service.bundle), "c"];
        finish(&mut service.command(lab, &create))?.text()?;
        let mut start = service.command(lab, &["start", "c"]).spawn()?;
        // Of all that a container could say this is what a manager must not hear.
        service.say(lab, "MAINPID=1\nSTOPPING=1\nFDSTORE=1")?;
        ensure!(start.try_wait()?.is_none(), "start did not wait");
        service.say(lab, "STATUS=warm\nREADY=1")?;
        ensure!(start.wait()?.success(), "start failed");
        let wanted = format!("MAINPID={}\nREADY=1\n", lab.pid("c")?);
        same(service.hear()?, &wanted)?;
        lab.remove("c")
    });
}

#[test]
fn start_does_not_wait_for_a_program_that_ends() {
    check(Who::Berth, |lab| {
        let service = Service::new(lab, "exit 3")?;
        let create = ["create", "--bundle", path(&service.bundle), "c"];
        finish(&mut service.command(lab, &create))?.text()?;
        finish(&mut service.command(lab, &["start", "c"]))?.text()?;
        service.manager.set_nonblocking(true)?;
        ensure!(service.hear().is_err(), "a program that ended was ready");
        lab.remove("c")
    });
}

#[test]
fn run_passes_on_that_the_program_is_ready_and_stays_the_main_process() {
    check(Who::Berth, |lab| {
        let service = Service::new(lab, "until [ -e over ]; do sleep 0.05; done; exit 4")?;
        let run = ["run", "--bundle", path(&service.bundle), "c"];
        let mut run = service.command(lab, &run).spawn()?;
        service.say(lab, "MAINPID=1")?;
        service.say(lab, "READY=1")?;
        same(service.hear()?, "READY=1\n")?;
        std::fs::write(service.bundle.join("rootfs/over"), "")?;
        let code = run.wait()?.code();
        ensure!(code == Some(4), "run ended with {code:?}");
        Ok(())
    });
}
