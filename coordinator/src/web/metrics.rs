//! `/metrics`: the fleet in Prometheus' text format (version 0.0.4).
//!
//! Numbers per app and per phase, never per server and release: the series stay few however many releases there are.

use std::fmt::{self, Display, Write as _};

use coord_proto::report::{HealthState, NodeInfo};
use coord_proto::rollout::{Outcome, RolloutPhase};

use crate::view::{App, Drift, Fleet, drift};

/// The text; `downloads_free` where this process serves artifacts.
pub fn text(fleet: Option<&Fleet>, downloads_free: Option<usize>) -> String {
    let mut out = Metrics(String::new());
    out.gauge("coord_build_info", "Version of this coordinator.");
    out.sample("coord_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    out.gauge("coord_store_fresh", "1 while etcd answers.");
    out.sample("coord_store_fresh", &[], fleet.is_some_and(|f| f.fresh).into());
    if let Some(free) = downloads_free {
        out.gauge("coord_artifact_downloads_free", "Downloads that may still begin.");
        out.sample("coord_artifact_downloads_free", &[], free as i64);
    }
    if let Some(fleet) = fleet {
        whole(&mut out, fleet);
        apps(&mut out, fleet);
    }
    out.0
}

fn whole(out: &mut Metrics, fleet: &Fleet) {
    out.gauge("coord_store_revision", "Revision of the view.");
    out.sample("coord_store_revision", &[], fleet.revision.0);
    out.gauge("coord_leader", "1 for the coordinator that leads; absent when none does.");
    if let Some(leader) = &fleet.leader {
        out.sample("coord_leader", &[("host", &leader.host)], 1);
    }
    out.gauge("coord_unreadable_records", "Records in etcd that cannot be read.");
    out.sample("coord_unreadable_records", &[], fleet.problems.len() as i64);
    out.gauge("coord_node_present", "1 while a server's presence is there.");
    for (name, node) in &fleet.nodes {
        out.sample("coord_node_present", &[("node", name)], node.present.into());
    }
    out.gauge("coord_node_cordoned", "1 while a server takes part in no rollout.");
    for (name, node) in &fleet.nodes {
        out.sample("coord_node_cordoned", &[("node", name)], node.cordoned.into());
    }
    out.gauge("coord_agents", "Servers by the version of their agent.");
    for (version, count) in agent_versions(fleet) {
        out.sample("coord_agents", &[("version", &version)], count);
    }
}

fn agent_versions(fleet: &Fleet) -> std::collections::BTreeMap<&str, i64> {
    let mut versions = std::collections::BTreeMap::new();
    for NodeInfo { agent_version, .. } in fleet.nodes.values().filter_map(|n| n.info.as_ref()) {
        *versions.entry(agent_version.as_str()).or_default() += 1;
    }
    versions
}

fn apps(out: &mut Metrics, fleet: &Fleet) {
    out.gauge("coord_instances", "Servers that report an app, by health.");
    for name in fleet.apps.keys() {
        for (word, health) in [
            ("healthy", HealthState::Healthy),
            ("unhealthy", HealthState::Unhealthy),
            ("unproven", HealthState::Unproven),
            ("unknown", HealthState::Unknown),
        ] {
            let slots = fleet.nodes.values().filter_map(|n| n.apps.get(name)?.status.as_ref());
            let count = slots.filter(|s| s.health == health).count();
            out.sample("coord_instances", &[("app", name), ("health", &word)], count as i64);
        }
    }
    out.gauge("coord_instances_drifting", "Servers that do not run what they should.");
    for (name, app) in &fleet.apps {
        let drifting = fleet.nodes.values().filter_map(|n| n.apps.get(name)).filter(|slot| drift(app, slot) != Drift::None);
        out.sample("coord_instances_drifting", &[("app", name)], drifting.count() as i64);
    }
    out.gauge("coord_app_unreadable", "1 while nothing is planned for an app because a record cannot be read.");
    for (name, app) in &fleet.apps {
        out.sample("coord_app_unreadable", &[("app", name)], app.unreadable.into());
    }
    rollouts(out, fleet);
}

fn rollouts(out: &mut Metrics, fleet: &Fleet) {
    let states = || fleet.apps.iter().filter_map(|(name, app): (_, &App)| Some((name, app.state.as_ref()?)));
    out.gauge("coord_rollout_phase", "1 for the phase that an app's last rollout is in.");
    for (name, state) in states() {
        out.sample("coord_rollout_phase", &[("app", name), ("phase", &state.phase.words())], 1);
    }
    out.gauge("coord_rollout_needs_operator", "1 while an app's rollout waits for a person.");
    for (name, state) in states() {
        let waits = matches!(state.phase, RolloutPhase::AwaitingPromotion | RolloutPhase::AwaitingDecision | RolloutPhase::Halted);
        out.sample("coord_rollout_needs_operator", &[("app", name)], waits.into());
    }
    out.gauge("coord_rollout_targets", "Servers of an app's last rollout, by outcome.");
    for (name, state) in states() {
        for (word, outcome) in [
            ("pending", Outcome::Pending),
            ("done", Outcome::Done),
            ("failed", Outcome::Failed),
            ("unreachable", Outcome::Unreachable),
            ("rolled_back", Outcome::RolledBack),
        ] {
            let count = state.targets.iter().filter(|t| t.outcome == outcome).count();
            out.sample("coord_rollout_targets", &[("app", name), ("outcome", &word)], count as i64);
        }
    }
}

struct Metrics(String);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: i64) {
        self.0.push_str(name);
        for (i, (key, text)) in labels.iter().enumerate() {
            self.write(format_args!("{}{key}=\"", if i == 0 { '{' } else { ',' }));
            write!(LabelValue(&mut self.0), "{text}").expect("a String takes every write");
            self.0.push('"');
        }
        self.write(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes every write");
    }
}

/// Escapes what the text format escapes in label values.
struct LabelValue<'a>(&'a mut String);

impl fmt::Write for LabelValue<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
