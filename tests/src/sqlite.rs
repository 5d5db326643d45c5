//! Questions to a SQLite database, asked through Python, which the sample application needs anyway.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const ASK: &str = r#"
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1], timeout=60).execute(sys.argv[2]):
    print("|".join(map(str, row)))
"#;

/// Rows of one statement: columns separated by `|`, one row a line.
///
/// # Errors
/// The statement's.
pub fn rows(database: &Path, sql: &str) -> Result<Vec<String>> {
    let output = Command::new("python3").args(["-c", ASK]).arg(database).arg(sql).output().context("cannot run python3")?;
    ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}
