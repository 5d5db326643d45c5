//! One `Range: bytes=…`, as RFC 9110 section 14 has it; several ranges are answered with everything, as the RFC allows.

use std::ops::Range;

/// The range lies outside: 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsatisfiable;

/// The bytes asked for of `len`; `None`: all of them (no header, another unit, several ranges, or malformed).
///
/// # Errors
/// A well-formed range that has no byte of the artifact.
pub fn resolve(header: Option<&str>, len: u64) -> Result<Option<Range<u64>>, Unsatisfiable> {
    let Some((first, last)) = header.and_then(parse) else { return Ok(None) };
    let range = match (first, last) {
        (Some(first), Some(last)) if last < first => return Ok(None),
        (Some(first), last) => first..last.map_or(len, |l| l.saturating_add(1).min(len)),
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (None, None) => return Ok(None),
    };
    if range.is_empty() { Err(Unsatisfiable) } else { Ok(Some(range)) }
}

/// `bytes=5-9`, `bytes=5-`, `bytes=-5`.
fn parse(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Some),
        _ => None,
    };
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        assert_eq!(resolve(Some("bytes=2-4"), 10), Ok(Some(2..5)));
        assert_eq!(resolve(Some("bytes=2-"), 10), Ok(Some(2..10)));
        assert_eq!(resolve(Some("bytes=-3"), 10), Ok(Some(7..10)));
        assert_eq!(resolve(Some("bytes=2-99"), 10), Ok(Some(2..10)));
        assert_eq!(resolve(Some("bytes=-99"), 10), Ok(Some(0..10)));
        assert_eq!(resolve(Some("bytes=0-18446744073709551615"), 10), Ok(Some(0..10)));
    }

    #[test]
    fn outside_is_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(resolve(Some(header), 10), Err(Unsatisfiable), "{header}");
        }
        assert_eq!(resolve(Some("bytes=0-"), 0), Err(Unsatisfiable));
    }

    #[test]
    fn what_is_not_understood_asks_for_everything() {
        for header in ["bytes=1-2,4-5", "bytes=5-2", "lines=1-2", "bytes=a-", "bytes=-", "bytes=+1-2"] {
            assert_eq!(resolve(Some(header), 10), Ok(None), "{header}");
        }
        assert_eq!(resolve(None, 10), Ok(None));
    }
}
