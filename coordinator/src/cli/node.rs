//! `coordctl node list|show|cordon|uncordon|forget`.

use clap::Subcommand;
use coord_proto::ids::NodeName;
use coord_proto::labels::Labels;

use super::rollout::verbs::{Why, failure};
use super::{Done, Global, Session, actor_saying};
use crate::exit::Exit;
use crate::operate::Judged;
use crate::operate::node::{self, NodeVerb};
use crate::ui::{Failure, Format, Table, Ui, words};
use crate::view::{Fleet, Node};

/// `coordctl node …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// All servers that ever registered
    List {
        #[arg(long)]
        json: bool,
    },
    /// One server: what it is, and what each app does there
    Show {
        node: NodeName,
        #[arg(long)]
        json: bool,
    },
    /// Leave the server out of rollouts
    Cordon(Marked),
    /// Let it take part again; it takes the stable release
    Uncordon(Marked),
    /// Forget a server that is gone for good
    Forget(Marked),
}

/// A server, and why.
#[derive(Debug, clap::Args)]
pub struct Marked {
    node: NodeName,
    #[command(flatten)]
    why: Why,
}

/// Runs it.
///
/// # Errors
/// etcd does not answer, no such server.
pub async fn run(command: Command, global: Global, ui: Ui) -> Done {
    let session = global.session(ui)?;
    match command {
        Command::Cordon(args) => mark(&session, args, NodeVerb::Cordon).await,
        Command::Uncordon(args) => mark(&session, args, NodeVerb::Uncordon).await,
        Command::Forget(args) => mark(&session, args, NodeVerb::Forget).await,
        Command::List { json } => list(&session.fleet().await?, Format::of(json), ui),
        Command::Show { node, json } => show(&session.fleet().await?, &node, Format::of(json), ui),
    }
}

async fn mark(session: &Session, args: Marked, verb: NodeVerb) -> Done {
    let by = actor_saying(args.why.message);
    let marked = node::mark(session.store.as_ref(), &session.keys, &args.node, verb, &by).await.map_err(|e| failure(session, e))?;
    session.ui.out(match marked {
        Judged::Do(()) => format!("{} {}", verb.past(), args.node),
        Judged::Already(words) => words,
    })?;
    Ok(Exit::Done)
}

fn list(fleet: &Fleet, format: Format, ui: Ui) -> Done {
    match format {
        Format::Json => ui.json(&fleet.nodes)?,
        Format::Text if fleet.nodes.is_empty() => ui.note("no server has registered yet; an agent does so when it starts"),
        Format::Text => ui.out(table(fleet).render())?,
    }
    Ok(Exit::Done)
}

fn show(fleet: &Fleet, name: &NodeName, format: Format, ui: Ui) -> Done {
    let unknown = || Failure::new(Exit::Error, format!("there is no server {name}")).hint("`coordctl node list` lists them");
    let node = fleet.nodes.get(name).ok_or_else(unknown)?;
    match format {
        Format::Json => ui.json(node)?,
        Format::Text => ui.out(text(name, node))?,
    }
    Ok(Exit::Done)
}

fn labels(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

fn table(fleet: &Fleet) -> Table {
    let mut table = Table::new(&["SERVER", "STATE", "LABELS", "AGENT", "ADDRESSES", "APPS"]);
    for (name, node) in &fleet.nodes {
        let info = node.info.as_ref();
        table.row([
            name.to_string(),
            state(node),
            info.map(|i| labels(&i.labels)).unwrap_or_default(),
            info.map(|i| i.agent_version.clone()).unwrap_or_default(),
            info.map(|i| i.addresses.join(" ")).unwrap_or_default(),
            node.apps.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ]);
    }
    table
}

fn state(node: &Node) -> String {
    let present = if node.present { "present" } else { "gone" };
    if node.cordoned { format!("{present}, cordoned") } else { present.to_owned() }
}

fn text(name: &NodeName, node: &Node) -> String {
    let mut lines = vec![("server".to_owned(), name.to_string()), ("state".to_owned(), state(node))];
    if let Some(info) = &node.info {
        lines.push(("labels".to_owned(), labels(&info.labels)));
        lines.push(("agent".to_owned(), info.agent_version.clone()));
        lines.push(("addresses".to_owned(), info.addresses.join(" ")));
        lines.push(("registered".to_owned(), words::time(info.since)));
    }
    for (app, slot) in &node.apps {
        let Some(status) = &slot.status else {
            lines.push((app.to_string(), "no word yet".to_owned()));
            continue;
        };
        let running = status.running.as_ref().map_or("nothing", |r| r.release.as_str());
        lines.push((
            app.to_string(),
            format!("runs {running}, {}; {} (floor {})", words::health(status.health), status.words, status.floor),
        ));
        if let Some(failure) = &status.failure {
            lines.push((String::new(), format!("failed: {}", failure.chain.join(": "))));
            lines.extend(failure.log_tail.lines().map(|line| (String::new(), format!("  | {line}"))));
        }
    }
    lines.iter().map(|(name, value)| format!("{name:<12} {}\n", crate::ui::table::printable(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn servers_in_a_table_and_one_in_full() {
        let fleet = sample::fleet();
        insta::assert_snapshot!(table(&fleet).render(), @r"
        SERVER  STATE           LABELS    AGENT  ADDRESSES  APPS
        web-1   present         role=web  0.1.0  10.0.0.1   mootube
        web-2   gone, cordoned  role=web  0.1.0  10.0.0.1   -
        ");
        let name = "web-1".parse().expect("node");
        insta::assert_snapshot!(text(&name, &fleet.nodes[&name]), @r"
        server       web-1
        state        present
        labels       role=web
        agent        0.1.0
        addresses    10.0.0.1
        registered   2026-11-24T12:00:00Z
        mootube      runs 20261123101112, healthy; waits for web-2 (floor 5)
                     failed: the app is not healthy: 503
                       | x
        ");
    }
}
