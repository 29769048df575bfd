use super::*;

fn complaint(text: &str) -> String {
    Configuration::parse(text, "cri.toml")
        .unwrap_err()
        .to_string()
}

#[test]
fn the_defaults_written_out_are_the_defaults() {
    let empty = Configuration::parse("", "none").unwrap();
    let written = Configuration::parse(&default_text(), "written").unwrap();
    assert_eq!(empty, written);
    // Every key is written with one line about it.
    for section in SECTIONS {
        for key in section.keys {
            let line = format!("\n{} = {}\n", key.name, key.default);
            assert!(
                default_text().contains(&line),
                "{}.{}",
                section.name,
                key.name
            );
            key.kind.check(&default_of(key)).unwrap();
        }
    }
    // Its comment is an example that works.
    let uncommented = default_text()
        .replace("\n# [handlers", "\n[handlers")
        .replace("\n# path", "\npath");
    let configuration = Configuration::parse(&uncommented, "example").unwrap();
    assert_eq!(
        configuration.handlers["runc"].path,
        Path::new("/usr/sbin/runc")
    );
}

#[test]
fn what_a_file_leaves_out_is_the_default() {
    let text = "[socket]\nmode = \"0600\"\n[handlers.crun]\npath = \"/usr/bin/crun\"\n";
    let configuration = Configuration::parse(text, "cri.toml").unwrap();
    assert_eq!(configuration.socket.mode, 0o600);
    assert_eq!(configuration.socket.path, None);
    assert_eq!(
        configuration.streaming.idle_timeout,
        Duration::from_secs(4 * 3600)
    );
    assert!(configuration.handlers["crun"].arguments.is_empty());
    assert_eq!(configuration.network.subnets.len(), 2);
}

#[test]
fn a_mistake_is_named_with_its_line_and_what_was_meant() {
    assert_eq!(
        complaint("[log]\nlevle = \"info\"\n"),
        "cri.toml:2: log.levle: no such key; did you mean level?"
    );
    assert_eq!(
        complaint("\n[sokcet]\n"),
        "cri.toml:2: [sokcet]: no such section; did you mean socket?"
    );
    assert_eq!(
        complaint("[streaming]\n\nidle_timeout = 30\n"),
        "cri.toml:3: streaming.idle_timeout: expected a time with its unit, such as \"500ms\", \
         \"30s\" or \"4h\", of 1ms at least, found 30"
    );
    assert!(complaint("log = 1\n").starts_with("cri.toml:1: log: expected the section [log]"));
    assert!(complaint("[log]\nlevel = \"loud\"\n").contains("expected one of \"error\""));
    assert!(complaint("[handlers.runc]\n").ends_with("[handlers.runc]: path is missing"));
    assert!(complaint("[handlers.runc]\npath = \"runc\"\n").contains("absolute path"));
    assert!(complaint("[handlers.\"a/b\"]\npath = \"/x\"\n").contains("expected a name"));
    assert!(complaint("[runtime]\ndefault_handler = \"kata\"\n").contains("[handlers.kata]"));
    assert!(complaint("[log]\nlevel = \n").starts_with("cri.toml:2: "));
    // All of them at once, in the file's order.
    let all = complaint("[metrics]\naddress = \"x\"\n[log]\nlevel = 1\nformat = 2\n");
    let lines: Vec<&str> = all.lines().map(|line| &line[..11]).collect();
    assert_eq!(lines, ["cri.toml:2:", "cri.toml:4:", "cri.toml:5:"]);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = Configuration::load(Some(Path::new("/nowhere/cri.toml"))).unwrap_err();
    let text = berth_runtime::causes::chain(&error);
    assert!(
        text.starts_with("read /nowhere/cri.toml: No such file"),
        "{text}"
    );
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    let old = Configuration::parse("", "old").unwrap();
    let text = "[log]\nlevel = \"debug\"\nformat = \"json\"\n[socket]\ngroup = \"adm\"\n";
    let new = Configuration::parse(text, "new").unwrap();
    let differences = old.differences(&new);
    assert_eq!(differences.reload, ["log.level"].into());
    assert_eq!(differences.restart, ["log.format", "socket"].into());
    assert_eq!(old.differences(&old), Differences::default());
    let now = old.reloaded(new.clone());
    assert_eq!(now.differences(&new).restart, differences.restart);
    assert!(now.differences(&new).reload.is_empty());
    // The mark that the file shows and what a reload does are the same.
    let marked = SECTIONS.iter().flat_map(|section| {
        let live = section
            .keys
            .iter()
            .filter(|key| key.change == keys::Change::Reload);
        live.map(move |key| format!("{}.{}", section.name, key.name))
    });
    let marked: Vec<String> = marked.collect();
    assert_eq!(
        marked,
        ["log.level", "runtime.default_handler", "image.registries"]
    );
}

#[test]
fn the_example_is_what_the_program_writes() {
    let example = include_str!("../../../examples/cri.toml");
    assert_eq!(
        example,
        default_text(),
        "berth cri config default > examples/cri.toml"
    );
}
