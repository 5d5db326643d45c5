//! Servers in one line: the first few by name, the others by number. A fleet's names would not fit into a record.

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
