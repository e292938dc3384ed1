//! The arrows between modules: no cycle among a crate's top modules, and no stage that imports another.
//!
//! Every path that begins at the crate's root counts, in `use` lines and in bodies, save those in comments, in texts and
//! in `#[cfg(test)] mod tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each top module imports of the others, with a place that does.
type Arrows = BTreeMap<String, BTreeMap<String, String>>;

/// An arrow that breaks a rule, and why it stays.
struct Exception {
    from: &'static str,
    to: &'static str,
    #[allow(dead_code, reason = "said to who reads the list")]
    why: &'static str,
}

/// A crate, and its rules.
struct Rules {
    /// Its sources, from the workspace's root.
    sources: &'static str,
    /// Groups of stages; a module of one group imports none of another.
    stages: &'static [&'static [&'static str]],
    /// What the stages don't import either.
    above_stages: &'static [&'static str],
    exceptions: &'static [Exception],
}

const DAEMON: Rules = Rules {
    sources: "src",
    stages: &[&["capture"], &["encode", "output"]],
    above_stages: &["pipeline", "web", "health", "config", "daemon", "cli"],
    exceptions: &[],
};

const VISION: Rules = Rules {
    sources: "crates/vision/src",
    stages: &[
        &["preprocess"],
        &["decode"],
        &["propagate"],
        &["track"],
        &["overlay"],
        &["redact"],
    ],
    above_stages: &["infer", "segment", "selftest", "score", "dataset"],
    exceptions: &[],
};

const TRACT_INT8: Rules = Rules {
    sources: "crates/tract-int8/src",
    stages: &[],
    above_stages: &[],
    exceptions: &[],
};

const TRAINER: Rules = Rules {
    sources: "trainer/src",
    stages: &[],
    above_stages: &[],
    exceptions: &[],
};

#[test]
fn the_daemon_keeps_its_arrows() {
    check(&DAEMON);
}

#[test]
fn the_vision_crate_keeps_its_arrows() {
    check(&VISION);
}

#[test]
fn the_operators_for_tract_keep_their_arrows() {
    check(&TRACT_INT8);
}

#[test]
fn the_trainer_keeps_its_arrows() {
    check(&TRAINER);
}

#[track_caller]
fn check(rules: &Rules) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(rules.sources);
    let arrows = read_crate(&root);
    let faults = faults(&arrows, rules);
    assert!(faults.is_empty(), "{}:\n{}", rules.sources, faults.join("\n"));
}

/// Everything that is wrong, in a line each.
fn faults(arrows: &Arrows, rules: &Rules) -> Vec<String> {
    let mut faults = Vec::new();
    let exists = |from: &str, to: &str| arrows.get(from).is_some_and(|a| a.contains_key(to));
    for name in rules.stages.iter().copied().flatten().chain(rules.above_stages) {
        if !arrows.contains_key(*name) {
            faults.push(format!(
                "there is no module {name}: the rules in this file name it"
            ));
        }
    }
    for Exception { from, to, .. } in rules.exceptions {
        if !exists(from, to) {
            faults.push(format!(
                "{from} does not import {to} any more: delete the exception"
            ));
        }
    }
    let is_exception = |from: &str, to: &str| rules.exceptions.iter().any(|e| e.from == from && e.to == to);
    for (group, stages) in rules.stages.iter().enumerate() {
        let others = rules.stages.iter().enumerate().filter(|(g, _)| *g != group);
        let forbidden: Vec<&str> = others
            .flat_map(|(_, names)| names.iter())
            .chain(rules.above_stages)
            .copied()
            .collect();
        for stage in *stages {
            for to in &forbidden {
                if exists(stage, to) && !is_exception(stage, to) {
                    let place = &arrows[*stage][*to];
                    faults.push(format!("the stage {stage} imports {to} in {place}"));
                }
            }
        }
    }
    let kept: Arrows = arrows
        .iter()
        .map(|(from, to)| {
            let to = to.iter().filter(|(to, _)| !is_exception(from, to));
            (from.clone(), to.map(|(t, p)| (t.clone(), p.clone())).collect())
        })
        .collect();
    for cycle in cycles(&kept) {
        let mut text = format!("a cycle: {}", cycle.join(", "));
        for from in &cycle {
            for (to, place) in kept[from].iter().filter(|(to, _)| cycle.contains(to)) {
                text.push_str(&format!("\n    {from} imports {to} in {place}"));
            }
        }
        faults.push(text);
    }
    faults
}

/// Sets of modules of which each reaches each other one.
fn cycles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reached = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(at) = open.pop() {
            for to in arrows.get(&at).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = arrows.keys().map(|m| (m, reached(m))).collect();
    let mut cycles = BTreeSet::new();
    for (module, to) in &all {
        if to.contains(*module) {
            let same = all
                .iter()
                .filter(|(other, back)| to.contains(**other) && back.contains(*module));
            cycles.insert(same.map(|(m, _)| (*m).clone()).collect::<Vec<_>>());
        }
    }
    cycles.into_iter().collect()
}

/// The arrows among the top modules of the crate at `root`.
fn read_crate(root: &Path) -> Arrows {
    let mut files = Vec::new();
    list(root, &mut files);
    let modules: Vec<Vec<String>> = files.iter().map(|f| module_of(root, f)).collect();
    let top: BTreeSet<String> = modules.iter().filter_map(|m| m.first().cloned()).collect();
    let mut arrows: Arrows = top.iter().map(|m| (m.clone(), BTreeMap::new())).collect();
    for (file, module) in files.iter().zip(&modules) {
        let Some(from) = module.first() else {
            continue;
        };
        let text = std::fs::read_to_string(file).unwrap();
        for (to, line) in imports(&code(&text), module.len()) {
            if to != *from && top.contains(&to) {
                let place = format!("{}:{line}", file.strip_prefix(root).unwrap().display());
                arrows.get_mut(from).unwrap().entry(to).or_insert(place);
            }
        }
    }
    arrows
}

/// All Rust files below `folder`, in order.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The module that a file is: `a/b.rs` and `a/b/mod.rs` are `[a, b]`, the crate's roots nothing. Files of tests alone
/// (`tests.rs`, `x_tests.rs`) are nothing either.
fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    let last = parts.last().unwrap().clone();
    if last == "tests" || last.ends_with("_tests") {
        return Vec::new();
    }
    if last == "mod" || parts.len() == 1 && (last == "lib" || last == "main") {
        parts.pop();
    }
    parts
}

/// The source with comments, texts and test modules blanked; lines stay where they are.
fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let bytes = source.as_bytes();
    let mut at = 0;
    // Copies up to `end`, keeping line ends alone where it is no code.
    let blank = |out: &mut String, from: usize, end: usize| {
        out.push(' ');
        out.extend(source[from..end].chars().filter(|c| *c == '\n'));
    };
    while at < bytes.len() {
        let rest = &source[at..];
        let is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + block_comment(rest)
        } else if let Some(hashes) = raw_string(rest).filter(|_| !is_word) {
            let open = rest.find('"').unwrap() + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            at + open
                + rest[open..]
                    .find(&close)
                    .map_or(rest.len() - open, |n| n + close.len())
        } else if rest.starts_with('"') {
            at + string(rest)
        } else if let Some(length) = char_literal(rest) {
            at + length
        } else {
            let c = rest.chars().next().unwrap();
            out.push(c);
            at += c.len_utf8();
            continue;
        };
        blank(&mut out, at, end);
        at = end;
    }
    without_tests(&out)
}

/// The length of the block comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().unwrap().len_utf8();
        }
    }
    text.len()
}

/// How many `#` the raw string has that `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// The length of the string that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character that `text` begins with; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    if let Some(escape) = rest.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|n| 2 + first + n + 1);
    }
    let c = rest.chars().next()?;
    rest[c.len_utf8()..]
        .starts_with('\'')
        .then_some(1 + c.len_utf8() + 1)
}

/// The code with each `#[cfg(test)] mod NAME { ... }` blanked.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        let (before, marked) = rest.split_at(start);
        out.push_str(before);
        let item = marked["#[cfg(test)]".len()..].trim_start();
        let item = item
            .strip_prefix("pub(super)")
            .or_else(|| item.strip_prefix("pub(crate)"))
            .unwrap_or(item)
            .trim_start();
        let open = marked.find(['{', ';']).unwrap_or(marked.len());
        let end = if item.starts_with("mod ") && marked[open..].starts_with('{') {
            open + braces(&marked[open..])
        } else {
            "#[cfg(test)]".len()
        };
        out.extend(marked[..end].chars().filter(|c| *c == '\n'));
        rest = &marked[end..];
    }
    out + rest
}

/// The length of the block in braces that `text` begins with.
fn braces(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The names right below the crate's root that `code` speaks of, with their lines. `depth` is that of its module: so many
/// `super::` lead to the root.
fn imports(code: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        let is_start = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let root = is_start.then(|| below_root(rest, depth)).flatten();
        match root {
            Some(path) => {
                let line = 1 + code[..at].matches('\n').count();
                found.extend(first_names(path).into_iter().map(|name| (name, line)));
                at = code.len() - path.len();
            }
            None => at += rest.chars().next().unwrap().len_utf8(),
        }
    }
    found
}

/// What follows the crate's root in a path that begins here.
fn below_root(text: &str, depth: usize) -> Option<&str> {
    if let Some(path) = text.strip_prefix("crate::") {
        return Some(path);
    }
    let mut path = text.strip_prefix("self::").unwrap_or(text);
    for _ in 0..depth {
        path = path.strip_prefix("super::")?;
    }
    (depth > 0).then_some(path)
}

/// The first name of each path in `a::b`, `{a, b::{c, d}}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    if !path.starts_with('{') {
        return vec![name(path)];
    }
    let group = &path[1..braces(path) - 1];
    let (mut names, mut depth) = (Vec::new(), 0);
    for part in group.split_inclusive([',', '{', '}']) {
        if depth == 0 {
            names.push(name(part.trim_start()));
        }
        match part.chars().last() {
            Some('{') => depth += 1,
            Some('}') => depth -= 1,
            _ => {}
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = r##"
//! [`crate::comment`]
use crate::one::Thing;
use crate::{two, three::{four, five}, six as other};
/* crate::comment /* crate::nested */ */
fn body<'a>(text: &'a str) -> crate::seven::Kind {
    let quote = '"'; let text = "crate::text"; let raw = r#"crate::raw"#; let tick = '\'';
    crate::eight::call(text); super::nine::call(); super::super::ten()
}
#[cfg(test)]
pub(super) mod tests {
    use crate::tests_alone;
}
fn after() { crate::eleven() }
"##;
    let found = |depth| -> Vec<String> {
        let imports = imports(&code(source), depth);
        imports.into_iter().map(|(name, _)| name).collect()
    };
    let always = ["one", "two", "three", "six", "seven", "eight"];
    let at = |extra: &[&str]| -> Vec<String> {
        let names = always.iter().chain(extra).chain(&["eleven"]);
        names.map(|n| (*n).to_owned()).collect()
    };
    assert_eq!(found(2), at(&["ten"]));
    assert!(found(1).contains(&"nine".to_owned()));
    let lines = imports(&code(source), 2);
    assert_eq!(
        lines.last(),
        Some(&("eleven".to_owned(), 14)),
        "lines stay where they are"
    );
}

#[test]
fn what_breaks_a_rule_is_named() {
    let arrows = |list: &[(&str, &str)]| -> Arrows {
        let mut arrows: Arrows = ["a", "b", "c", "top"]
            .map(|m| (m.to_owned(), BTreeMap::new()))
            .into();
        for (from, to) in list {
            let from = arrows.get_mut(*from).unwrap();
            from.insert((*to).to_owned(), "file.rs:1".to_owned());
        }
        arrows
    };
    let rules = Rules {
        sources: "",
        stages: &[&["a"], &["b"]],
        above_stages: &["top"],
        exceptions: &[],
    };
    assert_eq!(
        faults(&arrows(&[("a", "c"), ("b", "c"), ("top", "a")]), &rules),
        [""; 0]
    );
    let stage = faults(&arrows(&[("a", "b")]), &rules);
    assert_eq!(stage, ["the stage a imports b in file.rs:1"]);
    assert_eq!(faults(&arrows(&[("b", "top")]), &rules).len(), 1);
    let round = faults(&arrows(&[("a", "c"), ("c", "top"), ("top", "a")]), &rules);
    assert_eq!(round.len(), 1);
    assert!(round[0].starts_with("a cycle: a, c, top\n"), "{round:?}");

    let excepted = Rules {
        exceptions: &[Exception {
            from: "a",
            to: "b",
            why: "for the test",
        }],
        ..rules
    };
    assert_eq!(faults(&arrows(&[("a", "b")]), &excepted), [""; 0]);
    assert_eq!(
        faults(&arrows(&[]), &excepted),
        ["a does not import b any more: delete the exception"]
    );
}
