//! Directories of networks.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn name_in(reading: &Reading) -> &str {
    &reading.network.as_ref().unwrap().name
}

#[test]
fn the_first_valid_file_counts_and_the_wrong_ones_before_it_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "30-c.conf", r#"{"name":"c","type":"ptp"}"#);
    write(
        path,
        "20-b.conflist",
        r#"{"name":"b","plugins":[{"type":"bridge"}]}"#,
    );
    write(
        path,
        "10-a.conflist",
        r#"{"name":"a","plugins":[{"type":"../sh"}]}"#,
    );
    write(path, "05-none.conflist", r#"{"name":"a","plugins":[]}"#);
    write(path, "00-note.txt", "not a network");
    let reading = read_directory(path);
    assert_eq!(name_in(&reading), "b");
    let [none, separator] = reading.problems.as_slice() else {
        panic!("{:?}", reading.problems);
    };
    assert!(
        none.contains("05-none.conflist: plugins: expected"),
        "{none}"
    );
    assert!(
        separator.contains("10-a.conflist: plugins[0].type: \"../sh\""),
        "{separator}"
    );
    fs::remove_file(path.join("20-b.conflist")).unwrap();
    assert_eq!(name_in(&read_directory(path)), "c");
}

#[test]
fn plugins_in_the_networks_folder_are_put_to_its_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(
        path,
        "10-a.conflist",
        r#"{"name":"pods","plugins":[{"type":"bridge"}]}"#,
    );
    write(path, "pods/20-tuning.conf", r#"{"type":"tuning"}"#);
    write(path, "pods/10-portmap.conf", r#"{"type":"portmap"}"#);
    write(path, "pods/readme.json", "not a plugin");
    let programs = |reading: &Reading| -> Vec<String> {
        let plugins = &reading.network.as_ref().unwrap().plugins;
        plugins
            .iter()
            .map(|plugin| plugin.program.clone())
            .collect()
    };
    assert_eq!(
        programs(&read_directory(path)),
        ["bridge", "portmap", "tuning"]
    );
    write(
        path,
        "10-a.conflist",
        r#"{"name":"pods","loadOnlyInlinedPlugins":true,"plugins":[{"type":"bridge"}]}"#,
    );
    assert_eq!(programs(&read_directory(path)), ["bridge"]);
    write(path, "10-a.conflist", r#"{"name":"pods"}"#);
    assert_eq!(programs(&read_directory(path)), ["portmap", "tuning"]);
    write(path, "pods/10-portmap.conf", "{");
    let reading = read_directory(path);
    assert_eq!(reading.network, None);
    assert!(
        reading.problems[0].contains("10-portmap.conf"),
        "{:?}",
        reading.problems
    );
}

#[test]
fn what_is_no_plain_small_file_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.join("10-pipe.conf"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    write(path, "20-long.conf", &" ".repeat((1 << 20) + 1));
    std::os::unix::fs::symlink("nowhere", path.join("30-lost.conf")).unwrap();
    fs::create_dir(path.join("40-folder.conf")).unwrap();
    let reading = read_directory(path);
    assert_eq!(reading.network, None);
    assert_eq!(reading.problems.len(), 3, "{:?}", reading.problems);
    assert!(reading.problems[0].contains("10-pipe.conf: expected a file"));
    assert!(reading.problems[1].contains("longer than 1 MiB"));
    assert!(reading.problems[2].contains("30-lost.conf"));
}

#[test]
fn a_file_that_others_may_write_is_taken_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "10-a.conf", r#"{"name":"a","type":"ptp"}"#);
    let file = path.join("10-a.conf");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let reading = read_directory(path);
    assert_eq!(name_in(&reading), "a");
    let noted = |note: &String| note.contains("10-a.conf") && note.contains("mode 0666");
    assert!(reading.notes.iter().any(noted), "{:?}", reading.notes);
}

#[test]
fn a_directory_that_is_not_there_is_a_problem() {
    let reading = read_directory(Path::new("/nonexistent/net.d"));
    assert_eq!(reading.network, None);
    assert!(reading.problems[0].contains("/nonexistent/net.d"));
}
