//! How a rollout's targets are stored: column by column, each name once.
//!
//! ```json
//! { "nodes": "web-1 web-2 web-3", "outcomes": "DPp", "batches": [[0, 2], [1, 1]], "priors": [[6, 3]] }
//! ```
//!
//! A letter per server says how it fared, a capital one that it was told to run the release; batches and priors are
//! `[value, how many in a row]`. As one object per server, 7,000 of them were more than a record may have, and the entry in
//! the history, written in the same transaction, holds them a second time.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Outcome, Target};
use crate::ids::{NodeName, Seq};

#[derive(Serialize, Deserialize)]
struct Columns {
    nodes: String,
    outcomes: String,
    batches: Vec<(usize, usize)>,
    priors: Vec<(Seq, usize)>,
}

pub fn serialize<S: Serializer>(targets: &[Target], serializer: S) -> Result<S::Ok, S::Error> {
    let columns = Columns {
        nodes: targets.iter().map(|t| t.node.as_str()).collect::<Vec<_>>().join(" "),
        outcomes: targets.iter().map(letter).collect(),
        batches: runs(targets.iter().map(|t| t.batch)),
        priors: runs(targets.iter().map(|t| t.prior)),
    };
    columns.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Target>, D::Error> {
    let columns = Columns::deserialize(deserializer)?;
    let nodes: Vec<NodeName> =
        columns.nodes.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(D::Error::custom)?;
    let letters: Vec<char> = columns.outcomes.chars().collect();
    let whole = Some(nodes.len());
    if Some(letters.len()) != whole || total(&columns.batches) != whole || total(&columns.priors) != whole {
        return Err(D::Error::custom("the columns of the targets are not equally long"));
    }
    let rows = nodes.into_iter().zip(letters).zip(unfold(&columns.batches)).zip(unfold(&columns.priors));
    let target = |(((node, letter), batch), prior)| Target { node, batch, prior, told: told(letter), outcome: outcome(letter) };
    Ok(rows.map(target).collect())
}

fn runs<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<(T, usize)> {
    let mut runs: Vec<(T, usize)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => runs.push((value, 1)),
        }
    }
    runs
}

fn total<T>(runs: &[(T, usize)]) -> Option<usize> {
    runs.iter().try_fold(0usize, |sum, (_, count)| sum.checked_add(*count))
}

fn unfold<T: Copy>(runs: &[(T, usize)]) -> impl Iterator<Item = T> {
    runs.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count))
}

fn letter(target: &Target) -> char {
    let letter = match target.outcome {
        Outcome::Pending => 'p',
        Outcome::Done => 'd',
        Outcome::Failed => 'f',
        Outcome::Unreachable => 'u',
        Outcome::RolledBack => 'r',
        Outcome::Unknown => 'x',
    };
    if target.told { letter.to_ascii_uppercase() } else { letter }
}

fn told(letter: char) -> bool {
    letter.is_ascii_uppercase()
}

/// A letter of a newer program is an outcome that this one does not know.
fn outcome(letter: char) -> Outcome {
    match letter.to_ascii_lowercase() {
        'p' => Outcome::Pending,
        'd' => Outcome::Done,
        'f' => Outcome::Failed,
        'u' => Outcome::Unreachable,
        'r' => Outcome::RolledBack,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests;
