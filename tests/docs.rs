//! What the documentation says is there: links and their headings, paths, tests, commands, options, keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use segd::cli::Cli;

/// Pages whose options are segd's, not those of another program.
const PAGES_ABOUT_SEGD: [&str; 6] = [
    "README.md",
    "docs/configuration.md",
    "docs/events.md",
    "docs/boards.md",
    "docs/jetson.md",
    "docs/offline.md",
];

/// A page, its path from the repository's root.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: &str) -> Self {
        Self {
            path: path.into(),
            text: fs::read_to_string(root().join(path)).unwrap(),
        }
    }

    /// The lines that are not code, with their numbers from 1.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .filter_map(|(number, line, is_code)| (!is_code).then_some((number, line)))
    }

    /// The lines of code, without their indentation.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .filter_map(|(number, line, is_code)| is_code.then_some((number, line.trim_start())))
    }

    /// Number, text, and whether the line is code: fenced, or indented by four after an empty line or other code.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let (mut fenced, mut may_indent) = (false, true);
        (1..).zip(self.text.lines()).map(move |(number, line)| {
            let is_fence = line.trim_start().starts_with("```");
            let indented = may_indent && line.starts_with("    ");
            let is_code = fenced || is_fence || indented;
            fenced ^= is_fence;
            may_indent = line.is_empty() || line.starts_with('#') || is_code;
            (number, line, is_code)
        })
    }

    /// Anchors of the headings, as hosts of repositories make them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = BTreeSet::new();
        for (_, line) in self.prose() {
            let title = line.trim_start_matches('#');
            if title.len() == line.len() || !title.starts_with(' ') {
                continue;
            }
            let anchor = anchor(title.trim());
            let count = seen.entry(anchor.clone()).or_default();
            anchors.insert(match *count {
                0 => anchor,
                n => format!("{anchor}-{n}"),
            });
            *count += 1;
        }
        anchors
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn anchor(title: &str) -> String {
    title
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Every page in the repository, none of what is built or fetched.
fn pages() -> Vec<Page> {
    fn walk(folder: &Path, pages: &mut Vec<Page>) {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            let kind = entry.file_type().unwrap();
            if kind.is_dir()
                && !name.starts_with('.')
                && !matches!(name.as_str(), "target" | "runs" | "corpus")
            {
                walk(&path, pages);
            } else if kind.is_file() && name.ends_with(".md") {
                pages.push(Page::read(path.to_str().unwrap()));
            }
        }
    }
    let mut pages = Vec::new();
    walk(Path::new(""), &mut pages);
    assert!(pages.len() > 20, "only {} pages were found", pages.len());
    pages
}

/// What stands between the backticks of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The line with what is between backticks left out.
fn without_spans(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Targets of `[text](target)`.
fn links(line: &str) -> Vec<String> {
    without_spans(line)
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// The words of a command, comment left out, as a shell parts them at spaces outside double quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && words.last().is_some_and(String::is_empty) => break,
            ' ' if !quoted => {
                if words.last().is_some_and(|word| !word.is_empty()) {
                    words.push(String::new());
                }
            }
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Fails with all that is wrong at once.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root().join(page.path.parent().unwrap());
        for (number, line) in page.prose() {
            for link in links(line) {
                if link.contains("://") {
                    continue;
                }
                let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
                let target = if file.is_empty() {
                    root().join(&page.path)
                } else {
                    folder.join(file)
                };
                let at = format!("{}:{number}: {link}", page.path.display());
                if !target.exists() {
                    wrong.push(format!("{at}: there is no such file"));
                } else if !heading.is_empty() {
                    let text = fs::read_to_string(&target).unwrap();
                    let there = Page { path: target, text };
                    if !there.anchors().contains(heading) {
                        wrong.push(format!("{at}: there is no such heading"));
                    }
                }
            }
        }
    }
    none(wrong);
}

#[test]
fn paths_that_are_named_exist() {
    const FOLDERS: [&str; 12] = [
        "src/", "crates/", "trainer/", "tests/", "docs/", "scripts/", "benches/", "fuzz/", "systemd/",
        "cross/", "models/", "deploy/",
    ];
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let mut wrong = Vec::new();
    // The changelog and the notes of experiments speak of their day.
    let of_today = |page: &Page| page.path != Path::new("CHANGELOG.md") && !page.path.starts_with("docs/lab");
    for page in pages().into_iter().filter(of_today) {
        for (number, line) in page.prose() {
            for path in
                spans(line).filter(|s| FOLDERS.iter().any(|f| s.starts_with(f)) && s.chars().all(is_path))
            {
                if !root().join(path).exists() {
                    wrong.push(format!("{}:{number}: there is no {path}", page.path.display()));
                }
            }
        }
    }
    none(wrong);
}

/// `service::name` is the test `name` in tests/service.rs.
#[test]
fn tests_that_are_named_exist() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in [Page::read("docs/service.md"), Page::read("docs/lab/faults.md")] {
        for (number, line) in page.prose() {
            for (file, name) in spans(line).filter_map(|span| span.split_once("::")) {
                let Ok(source) = fs::read_to_string(root().join(format!("tests/{file}.rs"))) else {
                    continue;
                };
                found += 1;
                if !source.contains(&format!("fn {name}(")) {
                    let page = page.path.display();
                    wrong.push(format!("{page}:{number}: tests/{file}.rs has no test {name}"));
                }
            }
        }
    }
    assert!(found > 10, "only {found} tests are named");
    none(wrong);
}

#[test]
fn commands_that_are_shown_are_understood() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in pages() {
        for (number, line) in page.code() {
            let command = words(line.trim_start_matches("$ "));
            let understood = match command.first().map(String::as_str) {
                Some("segd") => Cli::try_parse_from(&command).map(drop).map_err(|e| e.to_string()),
                Some("make") => match command.get(1) {
                    Some(target) if !makefile.contains(&format!("\n{target}:")) => {
                        Err(format!("the Makefile has no {target}"))
                    }
                    _ => Ok(()),
                },
                _ => continue,
            };
            found += 1;
            if let Err(why) = understood {
                wrong.push(format!("{}:{number}: {line}: {why}", page.path.display()));
            }
        }
    }
    assert!(found > 20, "only {found} commands are shown");
    none(wrong);
}

#[test]
fn options_that_are_named_exist() {
    let top = Cli::command();
    let known: BTreeSet<&str> = std::iter::once(&top)
        .chain(top.get_subcommands())
        .flat_map(|command| command.get_arguments().filter_map(|argument| argument.get_long()))
        .chain(["help", "version"])
        .collect();
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in PAGES_ABOUT_SEGD.map(Page::read) {
        for (number, line) in page.prose() {
            for option in spans(line).filter_map(|span| span.strip_prefix("--")) {
                let name = option.split([' ', '=']).next().unwrap_or_default();
                found += 1;
                if !known.contains(name) {
                    wrong.push(format!("{}:{number}: there is no --{name}", page.path.display()));
                }
            }
        }
    }
    assert!(found > 20, "only {found} options are named");
    none(wrong);
}

/// Every key of the packaged file has a row in the table of keys.
#[test]
fn keys_of_the_packaged_configuration_are_documented() {
    let page = Page::read("docs/configuration.md");
    let rows: Vec<&str> = page
        .prose()
        .filter_map(|(_, line)| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    let packaged = fs::read_to_string(root().join("systemd/segd.toml")).unwrap();
    let (mut section, mut wrong, mut found) = ("", Vec::new(), 0);
    // What follows is an example of several cameras.
    for line in packaged.lines().take_while(|line| !line.contains("[[camera]]")) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        }
        let Some((key, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once(" = ")) else {
            continue;
        };
        if !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        found += 1;
        let (alone, whole) = (format!("`{key}`"), format!("`{section}.{key}`"));
        let of_section = format!("`{section}.");
        let is_in = |row: &&str| row.contains(&whole) || row.starts_with(&of_section) && row.contains(&alone);
        if !rows.iter().any(is_in) {
            wrong.push(format!("docs/configuration.md has no row for {section}.{key}"));
        }
    }
    assert!(found > 30, "only {found} keys were found");
    none(wrong);
}
