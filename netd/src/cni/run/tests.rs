//! A plugin that is broken off.

use super::*;
use crate::cni::call::Command;

#[tokio::test]
async fn what_a_plugin_started_ends_with_the_call_that_nobody_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("child");
    // A shell takes its script from its standard input.
    let script = format!(
        "sleep 600 </dev/null &\necho $! >{0}.new && mv {0}.new {0}\nwait\n",
        told.display()
    );
    let call = PluginCall {
        program: "sh".to_owned(),
        command: Command::Add,
        environment: Vec::new(),
        input: script.into_bytes(),
    };
    let input = unlocked_input().unwrap();
    let calling = tokio::spawn(async move {
        run_plugin(Path::new("/bin/sh"), &call, &input, Duration::from_secs(60)).await
    });
    until(|| told.exists()).await;
    let pid = fs::read_to_string(&told).unwrap();
    let cmdline = Path::new("/proc").join(pid.trim()).join("cmdline");
    until(|| fs::read(&cmdline).unwrap().starts_with(b"sleep")).await;
    calling.abort();
    // Nothing is in it either when nobody has taken the dead from the table.
    until(|| fs::read(&cmdline).unwrap_or_default().is_empty()).await;
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap();
}
