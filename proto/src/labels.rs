//! Labels of a server, and the selectors that match them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A server's labels: `role = "web"`, `zone = "a"`.
pub type Labels = BTreeMap<String, String>;

/// Which servers: every pair must be equal (`{}` matches all), or one of `any` must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Groups of which one must match, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<Labels>,
    /// Pairs that must all match.
    #[serde(flatten)]
    pub all: Labels,
}

/// Has a server with `labels` every pair that is wanted? Nothing wanted means every server.
pub fn matches(wanted: &Labels, labels: &Labels) -> bool {
    matches_by(wanted, |name| labels.get(name).map(String::as_str))
}

/// [`matches()`], for labels that are not in one map.
pub fn matches_by<'a>(wanted: &Labels, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    wanted.iter().all(|(k, v)| label(k) == Some(v))
}

impl Selector {
    /// Does a server with these labels belong to the selection?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_by(|name| labels.get(name).map(String::as_str))
    }

    /// [`Selector::matches`], for labels that are not in one map.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &Labels| matches_by(wanted, &label);
        has(&self.all) && (self.any.is_empty() || self.any.iter().any(has))
    }
}

/// As it is typed; groups of which one must match stand in brackets.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |labels: &Labels| labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let groups = self.any.iter().map(|group| format!("[{}]", pairs(group))).collect::<Vec<_>>().join(" or ");
        let parts = [pairs(&self.all), groups];
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join(" and "))
    }
}

/// A selector typed on the command line: `role=web,zone=a`; the label `node` is the server's own name.
impl FromStr for Selector {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let pair = |part: &str| match part.split_once('=') {
            Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
            _ => Err(format!("`{part}` is not LABEL=VALUE (write role=web,zone=a)")),
        };
        let all = s.split(',').filter(|p| !p.trim().is_empty()).map(pair).collect::<Result<_, _>>()?;
        Ok(Self { any: Vec::new(), all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(s: &str) -> Labels {
        s.parse::<Selector>().expect("labels").all
    }

    #[test]
    fn all_pairs_must_match_and_empty_matches_all() {
        let web = labels("role=web,zone=a");
        assert!(Selector::default().matches(&web));
        assert!("role=web".parse::<Selector>().expect("selector").matches(&web));
        assert!(!"role=web,zone=b".parse::<Selector>().expect("selector").matches(&web));
    }

    #[test]
    fn any_needs_one_group() {
        let s: Selector = toml_like(r#"{"any":[{"role":"web"},{"role":"worker"}]}"#);
        assert!(s.matches(&labels("role=worker")));
        assert!(!s.matches(&labels("role=db")));
    }

    fn toml_like(json: &str) -> Selector {
        serde_json::from_str(json).expect("selector")
    }

    #[test]
    fn a_selector_without_equals_is_refused() {
        assert!("web".parse::<Selector>().is_err());
    }
}
