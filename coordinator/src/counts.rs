//! Numbers with the word that goes with them: `1 server`, `3 servers`.

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

/// `1 more signature`, `2 more signatures`.
pub fn signatures(missing: usize) -> String {
    format!("{missing} more {}", plural(missing, "signature", "signatures"))
}
