//! What `ps`, `inspect`, `stats`, `top` and `info` show.

use berth_tests::machine::Machine;
use serde_json::Value;

fn json(machine: &Machine, words: &[&str]) -> Value {
    let mut all = words.to_vec();
    all.extend(["-o", "json"]);
    let text = machine.berth(&all).expect("berth prints it");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn tables_and_json_say_the_same() {
    let machine = Machine::new().unwrap();
    machine
        .berth(&[
            "run",
            "-d",
            "--name",
            "web",
            "-l",
            "tier=front",
            "-p",
            "8082:80",
            "nginx",
        ])
        .unwrap();
    let table = machine.berth(&["stats", "--no-stream", "web"]).unwrap();
    assert!(table.starts_with("POD") && table.contains("web"), "{table}");
    let stats = json(&machine, &["stats", "--no-stream"]);
    assert_eq!(stats[0]["pod"], "web");
    assert!(stats[0]["memoryBytes"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats[0]["podProcesses"].as_u64().unwrap() > 1, "{stats}");
    let table = machine.berth(&["top", "web"]).unwrap();
    assert!(table.contains("nginx: master process"), "{table}");
    let top = json(&machine, &["top", "web"]);
    assert_eq!(top[0]["containerPid"], 1, "{top}");
    let seen = json(&machine, &["inspect", "web"]);
    assert_eq!(seen[0]["kind"], "Pod");
    assert_eq!(seen[0]["labels"]["tier"], "front");
    assert_eq!(seen[0]["status"]["phase"], "Running");
    let container = seen[0]["containers"][0]["id"].as_str().unwrap();
    let same = json(&machine, &["inspect", &container[..12]]);
    assert_eq!(same[0]["id"], container);
    let pods = json(&machine, &["ps", "--pods"]);
    assert_eq!(pods[0]["ports"], serde_json::json!(["8082->80/tcp"]));
    assert_eq!(pods[0]["containers"][0]["id"], container);
    assert!(
        machine
            .berth(&["ps", "-l", "tier=back", "-q"])
            .unwrap()
            .is_empty()
    );
    let wide = machine.berth(&["ps", "-o", "wide"]).unwrap();
    let address = pods[0]["addresses"][0].as_str().unwrap();
    assert!(wide.contains(address), "{wide}");
    let info = json(&machine, &["info"]);
    assert_eq!(info["podsUp"], 1);
    assert!(machine.berth(&["info"]).unwrap().contains("1, 1 up"));
    let yaml = machine.berth(&["inspect", "-o", "yaml", "web"]).unwrap();
    assert!(yaml.contains("kind: Pod"), "{yaml}");
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}
