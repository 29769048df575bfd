//! What the project teaches is what it does: generated pages are those of the program.

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
