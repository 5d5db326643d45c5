//! The README's table of the keys of `[rollout]`: each of its rows is proved by a test in `keys`, which reads its example there.

use std::collections::BTreeSet;
use std::path::Path;

use coord_proto::rollout::RolloutPolicy;

use crate::deploy_file::DeployFile;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
const HEADING: &str = "## Every key of `[rollout]`";
const TESTS: &str = include_str!("keys.rs");

/// One line of the table.
struct Row {
    /// The test's name; it begins with the key's.
    test: String,
    /// Lines of a deploy file.
    example: String,
    words: String,
}

fn rows() -> Vec<Row> {
    let readme = std::fs::read_to_string(README).expect("the README");
    let (_, section) = readme.split_once(HEADING).expect("the section about [rollout]");
    let lines = section.split("\n## ").next().unwrap_or_default().lines();
    lines.filter(|line| line.starts_with("| `")).map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [test, example, words] = cells.as_slice() else { panic!("three cells: {line}") };
    Row { test: code(test), example: code(example), words: (*words).to_owned() }
}

/// What stands between backticks, a line for each.
fn code(cell: &str) -> String {
    cell.split('`').skip(1).step_by(2).collect::<Vec<_>>().join("\n")
}

/// The policy of this row's example, as a deploy file gives it.
pub fn policy(test: &str) -> RolloutPolicy {
    let row = rows().into_iter().find(|row| row.test == test).expect("a row of the README's table");
    let text = format!("app = \"mootube\"\n[rollout]\n{}\n", row.example);
    DeployFile::parse(&text, Path::new("README.md"), None).expect("the row's example").rollout
}

/// Every key that `[rollout]` accepts, with its default.
fn keys() -> Vec<(String, serde_json::Value)> {
    let default = serde_json::to_value(RolloutPolicy::default()).expect("the default policy");
    default.as_object().expect("a table").clone().into_iter().collect()
}

/// As a deploy file would say it: a list of one as that one.
fn in_toml(value: &serde_json::Value) -> String {
    match value.as_array().map(Vec::as_slice) {
        Some([one]) => one.to_string(),
        _ => value.to_string(),
    }
}

#[test]
fn every_row_has_a_test_and_every_test_a_row() {
    let rows = rows();
    let in_table: BTreeSet<&str> = rows.iter().map(|row| row.test.as_str()).collect();
    let tests: BTreeSet<&str> =
        TESTS.split("#[test]\nfn ").skip(1).map(|text| text.split('(').next().expect("a split has a first part")).collect();
    assert_eq!(in_table, tests);
    assert_eq!(in_table.len(), rows.len(), "no row stands there twice");
    for test in tests {
        assert!(TESTS.contains(&format!("(\"{test}\"")), "{test} reads its own example");
    }
}

#[test]
fn every_key_has_a_row_that_names_its_default() {
    let rows = rows();
    let keys = keys();
    assert!(!keys.is_empty());
    for (key, default) in &keys {
        let of_key = |row: &&Row| row.test.starts_with(key.as_str()) && row.example.lines().any(|l| l.starts_with(&format!("{key} = ")));
        let first = rows.iter().find(of_key).unwrap_or_else(|| panic!("`{key}` has no row"));
        let named = format!("Default: `{}`.", in_toml(default));
        assert!(first.words.ends_with(&named), "{}: {named}", first.test);
    }
    for row in &rows {
        assert!(keys.iter().any(|(key, _)| row.test.starts_with(key.as_str())), "{} is about no key", row.test);
    }
}
