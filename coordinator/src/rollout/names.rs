//! Servers in one line: the first few by name, the others by number. A fleet's names would not fit into a record. And how many of what.

/// Most names in one line.
const NAMED_MAX: usize = 5;

/// `n1, n2, n3, n4, n5 and 95 more`.
pub fn short<N: ToString>(names: &[N]) -> String {
    let shown = names.iter().take(NAMED_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 server`, `3 servers`.
pub fn servers(number: usize) -> String {
    format!("{number} {}", plural(number, "server", "servers"))
}

/// `1 batch`, `3 batches`.
pub fn batches(number: usize) -> String {
    format!("{number} {}", plural(number, "batch", "batches"))
}

/// The word that goes with a number.
pub fn plural(number: usize, one: &'static str, many: &'static str) -> &'static str {
    if number == 1 { one } else { many }
}
