//! `berth logs`: cut, dated, followed.

use berth_tests::machine::{LIMIT, Machine};

const LINES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  volumes: [{name: seen, emptyDir: {}}]
  containers:
    - name: main
      image: busybox
      volumeMounts: [{name: seen, mountPath: /seen}]
      command:
        - sh
        - -c
        - |
          if [ -e /seen/once ]; then echo second run; sleep 1; echo last; exit 0; fi
          touch /seen/once
          seq 1 20; sleep 3; echo fails >&2; exit 4
";

#[test]
fn a_log_is_cut_dated_and_followed_over_a_restart() {
    let machine = Machine::new().unwrap();
    machine.write("web.yaml", LINES).unwrap();
    machine.berth(&["run", "-d", "web.yaml"]).unwrap();
    // The pod is ready when its program runs, which is before it has written.
    let deadline = std::time::Instant::now() + LIMIT;
    while !machine.berth(&["logs", "web"]).unwrap().contains("\n20\n") {
        assert!(std::time::Instant::now() < deadline, "no 20 lines");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut following = machine
        .start(&["logs", "-f", "--tail", "2", "web"])
        .unwrap();
    assert_eq!(following.wait(LIMIT).unwrap(), 0);
    let text = following.text();
    assert_eq!(text, "19\n20\nfails\nsecond run\nlast\n");
    let before = machine.berth(&["logs", "-p", "--tail", "1", "web"]);
    // What a program wrote to standard error comes from there again.
    assert_eq!(before.unwrap(), "");
    assert_eq!(
        machine.berth(&["logs", "--since", "1h", "web"]).unwrap(),
        "second run\nlast\n"
    );
    let future = machine.berth(&["logs", "--since", "2100-01-01T00:00:00Z", "web"]);
    assert_eq!(future.unwrap(), "");
    let dated = machine
        .berth(&["logs", "-n", "1", "--timestamps", "--prefix", "web"])
        .unwrap();
    assert!(dated.starts_with("main") && dated.contains("T"), "{dated}");
    assert!(dated.trim_end().ends_with("Z last"), "{dated}");
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}
