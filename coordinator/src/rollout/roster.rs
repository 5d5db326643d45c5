//! The servers of one pass, looked up once: at ten thousand, a search by name for every question is most of a pass.

use std::collections::BTreeMap;

use coord_proto::ids::NodeName;
use coord_proto::rollout::Target;

use crate::view::Node;

/// Who is a target, and who is not.
pub struct Roster<'a> {
    /// The targets' servers, in the targets' order; none: nobody knows it any more.
    pub targets: Vec<Option<&'a Node>>,
    /// Everybody else, by name.
    pub others: Vec<(&'a NodeName, &'a Node)>,
}

impl<'a> Roster<'a> {
    /// Both lists by name, side by side. Targets are nearly in that order, so that sorting them costs little.
    pub fn of(nodes: &'a BTreeMap<NodeName, Node>, targets: &[Target]) -> Self {
        let mut by_name: Vec<(usize, &NodeName)> = targets.iter().map(|t| &t.node).enumerate().collect();
        by_name.sort_by_key(|(_, name)| *name);
        let mut by_name = by_name.into_iter().peekable();
        let mut roster = Self { targets: vec![None; targets.len()], others: Vec::new() };
        for (name, node) in nodes {
            while by_name.next_if(|(_, target)| *target < name).is_some() {}
            match by_name.next_if(|(_, target)| *target == name) {
                Some((index, _)) => roster.targets[index] = Some(node),
                None => roster.others.push((name, node)),
            }
        }
        roster
    }
}

#[cfg(test)]
mod tests {
    use coord_proto::ids::Seq;
    use coord_proto::rollout::Outcome;

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_server_is_a_target_or_one_of_the_others_whatever_the_order_of_the_targets() {
        let nodes: BTreeMap<NodeName, Node> = ["a", "b", "c", "d"].map(|n| (name(n), Node::default())).into();
        let target = |node| Target { node: name(node), batch: 0, prior: Seq(0), told: false, outcome: Outcome::Pending };
        let roster = Roster::of(&nodes, &["d", "aa", "a", "c", "z"].map(target));
        let found: Vec<Option<&NodeName>> = roster
            .targets
            .iter()
            .map(|node| nodes.iter().find(|(_, n)| node.is_some_and(|found| std::ptr::eq(found, *n))).map(|(n, _)| n))
            .collect();
        assert_eq!(found, [Some(&name("d")), None, Some(&name("a")), Some(&name("c")), None]);
        assert_eq!(roster.others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
