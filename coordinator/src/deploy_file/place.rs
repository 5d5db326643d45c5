//! Where in the file an error is, in words: the line, the key, and the key that was probably meant.

/// The place (`line 12, `exlude``) and the problem, with the nearest key where one is near.
pub fn explain(text: &str, error: &toml::de::Error) -> (String, String) {
    let message = error.message().trim();
    let place = match error.span() {
        None => "at an unknown line".to_owned(),
        Some(span) => at(text, span.start),
    };
    let Some(unknown) = quoted(message.strip_prefix("unknown field ").unwrap_or_default()).next() else {
        return (place, message.to_owned());
    };
    let known: Vec<&str> = quoted(message).skip(1).collect();
    let meant = nearest(unknown, &known).map_or_else(String::new, |key| format!("; did you mean `{key}`?"));
    (place, format!("unknown key `{unknown}`{meant} (known here: {})", known.join(", ")))
}

/// `line 3, `key``: the key that the line assigns, or none for a table's head.
fn at(text: &str, start: usize) -> String {
    let before = text.get(..start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    match line.split_once('=') {
        Some((key, _)) if !line.starts_with('[') => format!("line {number}, `{}`", key.trim()),
        _ => format!("line {number}, {line}"),
    }
}

/// `line 3, etcd.quota`, or the key alone when the file does not hold it.
pub fn of_key(text: &str, key: &str) -> String {
    let (table, name) = key.split_once('.').unwrap_or(("", key));
    let mut inside = table.is_empty();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).trim() == table;
        } else if inside && line.split('=').next().is_some_and(|k| k.trim() == name) {
            return format!("line {}, `{key}`", index + 1);
        }
    }
    format!("`{key}`")
}

/// The words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The known key that differs least, if it differs in less than half of its letters.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let ranked = known.iter().map(|k| (distance(word, k), *k)).min()?;
    (ranked.0 * 2 <= ranked.1.len()).then_some(ranked.1)
}

/// Edit distance (Levenshtein), one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}
