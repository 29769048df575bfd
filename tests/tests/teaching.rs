//! What the project teaches is what it does: generated pages are those of the program.

#[path = "teaching/labs.rs"]
mod labs;

use std::process::Command;

use berth_tests::host::program;

fn page_of(arguments: &[&str]) -> String {
    let output = Command::new(program("berth-oci"))
        .args(arguments)
        .output()
        .expect("berth-oci was built by the same call");
    assert!(output.status.success(), "berth-oci {arguments:?}");
    String::from_utf8(output.stdout).expect("a page is text")
}

#[test]
fn the_page_of_stages_is_what_the_program_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/stages.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    for table in [page_of(&["stages"]), page_of(&["stages", "--exec"])] {
        assert!(table.lines().count() > 5, "a table has rows");
        assert!(
            page.contains(&table),
            "docs/stages.md is not what `berth-oci stages` prints; the program's table is:\n{table}"
        );
    }
}

#[test]
fn every_stage_has_a_file_of_its_name() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/src/stages");
    let table = page_of(&["stages"]) + &page_of(&["stages", "--exec"]);
    let mut seen = 0;
    for line in table.lines() {
        let Some(name) = line.split('`').nth(1) else {
            continue;
        };
        let file = format!("{folder}/{}.rs", name.replace('-', "_"));
        let text = std::fs::read_to_string(&file).expect(&file);
        let title = format!("//! Stage `{name}`");
        assert!(
            text.starts_with(&title),
            "{file} does not begin with {title}"
        );
        seen += 1;
    }
    assert!(seen > 30, "only {seen} stages were looked at");
}

/// What `berth` prints when it is asked for help.
fn help_of(words: &[&str]) -> String {
    let output = Command::new(program("berth"))
        .arg("help")
        .args(words)
        .output()
        .expect("berth was built by the same call");
    assert!(output.status.success(), "berth help {words:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The help of the command that words begin with, below commands that have commands.
fn help_of_longest(words: &[&str]) -> String {
    let mut help = help_of(&words[..1]);
    for end in 1..words.len() {
        let row = format!("  {} ", words[end]);
        let commands = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .take_while(|line| !line.is_empty());
        if !commands.into_iter().any(|line| line.starts_with(&row)) {
            break;
        }
        help = help_of(&words[..=end]);
    }
    help
}

#[test]
fn the_page_of_commands_lists_what_the_program_has() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let help = help_of(&[]);
    let rows: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty() && !line.starts_with("  help "))
        .collect();
    assert!(rows.len() > 15, "{help}");
    let table = format!("```text\n{}\n```\n", rows.join("\n"));
    assert!(
        page.contains(&table),
        "docs/cli.md does not list the program's commands, which are:\n{table}"
    );
    for row in rows {
        let name = row.split_whitespace().next().expect("a row has a name");
        let title = format!("### `berth {name}`\n\n```console\n# ");
        assert!(
            page.contains(&title),
            "docs/cli.md has no example of {name}"
        );
    }
}

#[test]
fn the_examples_of_commands_use_options_that_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let mut seen = 0;
    for line in page.lines().filter(|line| line.starts_with("# ")) {
        // What stands before a pipe is another program's.
        let Some((_, example)) = line.rsplit_once("berth ") else {
            continue;
        };
        let words: Vec<&str> = example.split_whitespace().collect();
        let help = help_of_longest(&words);
        let options = words.iter().filter(|word| word.starts_with("--"));
        for option in options.copied() {
            let named = |line: &str| line.split([' ', ',']).any(|word| word == option);
            assert!(
                help.lines().any(named),
                "{line}: there is no {option}; the help is:\n{help}"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} options were looked at");
}
