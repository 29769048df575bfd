//! Runs the labs: what stands after `#` is typed on a terminal, and what the page
//! says comes then has to come.
//!
//! "What you see will differ in numbers only", the pages promise. So each line of a
//! page has to stand in what was printed, with every number taken for any other; and
//! a number of the page stands for the printed one in all commands that follow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_tests::host::{Host, program};
use berth_tests::patience::stretched;
use berth_tests::terminal::Terminal;

/// What the shell of a lab prints when it waits. No command prints it.
const PROMPT: &str = "lab~> ";
/// What the shell of a container prints.
const INNER: &str = "/ # ";

/// A command of a page, and what the page says that it prints.
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The commands of a page, in their order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        let command = line.strip_prefix("# ").or(line.strip_prefix(INNER));
        match (command, steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                expected: Vec::new(),
            }),
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("{line:?} stands before any command"),
        }
    }
    steps
}

/// The line with single spaces, its numbers one by one, and `0` in their place.
fn masked(line: &str) -> (String, Vec<String>) {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    let mut numbers: Vec<String> = Vec::new();
    let mut in_number = false;
    for letter in line.chars() {
        if !letter.is_ascii_digit() {
            in_number = false;
            text.push(letter);
            continue;
        }
        if !in_number {
            text.push('0');
            numbers.push(String::new());
        }
        in_number = true;
        if let Some(number) = numbers.last_mut() {
            number.push(letter);
        }
    }
    (text, numbers)
}

/// Replaces the page's numbers of processes, which have four digits.
fn with_numbers(command: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(command.to_owned(), |text, (page, real)| {
        text.replace(page, real)
    })
}

/// Waits until a shell waits, and takes what was printed since.
fn read_to_prompt(terminal: &Terminal) -> Result<String> {
    let end = Instant::now() + stretched(Duration::from_secs(20));
    loop {
        let text = terminal.text().replace('\r', "");
        let last = text.rsplit('\n').next().unwrap_or("");
        if last.ends_with(PROMPT) || last.ends_with(INNER) {
            return Ok(text);
        }
        if Instant::now() > end {
            bail!("no prompt came back: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a page's commands, and takes away what a page that fails leaves.
fn run(page: &str) -> Result<usize> {
    let host = Host::new()?;
    let ran = run_on(&host, page);
    let mut delete = host.command(program("berth-oci"));
    let deleted = delete.args(["delete", "--regex", "--force", "."]).status();
    let ran = ran?;
    anyhow::ensure!(deleted?.success(), "a container could not be taken away");
    Ok(ran)
}

fn run_on(host: &Host, page: &str) -> Result<usize> {
    // Where the reader stands: a folder with the two programs in target/berth.
    let programs = host.work_dir().join("target/berth");
    std::fs::create_dir_all(&programs)?;
    std::os::unix::fs::symlink(program("berth-oci"), programs.join("berth-oci"))?;
    let lab = host.work_dir().join("lab");
    let script = format!(
        "mkdir -p /run/berth && mount -t tmpfs none /run/berth && \
         exec env PS1='{PROMPT}' bash --norc --noprofile --noediting -i"
    );
    let like = host.command("true");
    let mut words = host.command_line("sh");
    words.extend(["-c".to_owned(), script]);
    let mut terminal = Terminal::run(&words, &like)?;
    terminal.resize(240, 50)?;
    read_to_prompt(&terminal)?;
    let mut known = BTreeMap::new();
    let steps = steps(page);
    for step in &steps {
        terminal.clear();
        let command =
            with_numbers(&step.command, &known).replace("/tmp/lab", &lab.to_string_lossy());
        terminal.type_keys(&format!("{command}\n"))?;
        let in_background = command.ends_with('&');
        let mut printed = match in_background {
            true => String::new(),
            false => read_to_prompt(&terminal)?,
        };
        let deadline = Instant::now() + stretched(Duration::from_secs(5));
        for expected in &step.expected {
            let (wanted, page_numbers) = masked(expected);
            loop {
                let found = printed
                    .lines()
                    .map(masked)
                    .find(|(text, _)| text.contains(&wanted));
                if let Some((text, numbers)) = found {
                    // Numbers before the wanted part belong to another column.
                    let before = text.split(&wanted).next().unwrap_or("");
                    let skipped = before.matches('0').count();
                    let pairs = page_numbers.iter().zip(numbers.iter().skip(skipped));
                    let long = pairs.filter(|(page, _)| page.len() == 4);
                    known.extend(long.map(|(page, real)| (page.clone(), real.clone())));
                    break;
                }
                // What runs in the background prints when it likes.
                if Instant::now() > deadline {
                    bail!("`{command}` did not print {expected:?} but: {printed}");
                }
                std::thread::sleep(Duration::from_millis(50));
                if in_background {
                    // The shell tells of its jobs before it waits for the next line.
                    terminal.type_keys("\n")?;
                }
                printed = terminal.text().replace('\r', "");
            }
        }
        if in_background {
            terminal.type_keys("\n")?;
            read_to_prompt(&terminal)?;
        }
    }
    terminal.type_keys("exit\n")?;
    terminal.wait(stretched(Duration::from_secs(10)))?;
    Ok(steps.len())
}

#[test]
fn the_labs_do_what_they_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/labs");
    let mut pages: Vec<_> = std::fs::read_dir(folder)
        .expect("there are labs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    pages.sort();
    assert!(pages.len() >= 2, "{pages:?}");
    for path in pages {
        let page = std::fs::read_to_string(&path).expect("a page");
        let ran = run(&page).with_context(|| path.display().to_string());
        let ran = ran.unwrap_or_else(|error| panic!("{error:#}"));
        assert!(ran > 10, "{}: only {ran} commands", path.display());
    }
}
