//! The page's frame, and the one place where text becomes HTML.

use std::fmt::{self, Display, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coord_proto::ids::Digest;

use super::app;
use crate::ui::words::span;
use crate::view::Fleet;

/// The style sheet; it stands in the page, and its digest in the page's security policy.
const STYLE: &str = include_str!("style.css");
/// Said of a store with another past, here and by `/healthz`.
pub const RESTORED: &str = "etcd was restored from a backup: this coordinator does not lead and rolls nothing out. Look, then restart it.";
/// Loads the page again every five seconds.
const REFRESH: &str = "<meta http-equiv=\"refresh\" content=\"5\">";

/// HTML under construction. Markup is `&'static str`; whatever comes from records is escaped.
#[derive(Debug, Default)]
pub struct Html(String);

impl Html {
    /// Markup of this program.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Anything else.
    pub fn text(&mut self, value: impl Display) -> &mut Self {
        write!(Escaped(&mut self.0), "{value}").expect("a String takes every write");
        self
    }

    /// `<tag class="class">value</tag>`.
    pub fn tag(&mut self, tag: &'static str, class: &'static str, value: impl Display) -> &mut Self {
        self.open(tag, class).text(value).close(tag)
    }

    /// `<tag class="class">`.
    pub fn open(&mut self, tag: &'static str, class: &'static str) -> &mut Self {
        self.raw("<").raw(tag).raw(" class=\"").raw(class).raw("\">")
    }

    /// `<tag class="class" title="title">`: the title is what a mouse over it shows.
    pub fn open_titled(&mut self, tag: &'static str, class: &'static str, title: impl Display) -> &mut Self {
        self.raw("<").raw(tag).raw(" class=\"").raw(class).raw("\" title=\"").text(title).raw("\">")
    }

    /// `</tag>`.
    pub fn close(&mut self, tag: &'static str) -> &mut Self {
        self.raw("</").raw(tag).raw(">")
    }
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Only this page's own style sheet: no script, no image, no frame, no form.
pub fn content_security_policy() -> String {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let digest = STANDARD.encode(Digest::of(STYLE.as_bytes()).as_bytes());
        format!("default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    });
    POLICY.clone()
}

/// The whole page; `now` in Unix seconds.
pub fn page(fleet: Option<&Fleet>, prefix: &str, now: i64) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">").raw(REFRESH);
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Coord ").text(prefix);
    html.raw("</title><style>").raw(STYLE).raw("</style></head><body>");
    header(&mut html, fleet, prefix, now);
    html.raw("<main>");
    match fleet {
        None => drop(html.tag("p", "banner bad", "etcd has not answered yet. Servers keep running what they run.")),
        Some(fleet) => body(&mut html, fleet, now),
    }
    html.raw("</main><footer>Read-only. The same, with more detail: <code>coordctl status</code></footer></body></html>\n");
    html.0
}

fn header(html: &mut Html, fleet: Option<&Fleet>, prefix: &str, now: i64) {
    html.raw("<header><h1><span class=\"mark\" aria-hidden=\"true\"></span>Coord</h1>").tag("span", "prefix", prefix);
    html.raw("<span class=\"space\"></span>");
    if let Some(fleet) = fleet {
        match &fleet.leader {
            Some(leader) => {
                let since = format!("leads since {}", span(leader.since, now));
                html.open_titled("span", "fact", since).raw("leader <b>").text(&leader.host).raw("</b></span>");
            }
            None => drop(html.tag("span", "pill bad", "no leader")),
        }
        html.raw("<span class=\"fact\">revision <b>").text(fleet.revision).raw("</b></span>");
        let (class, word) = if fleet.fresh { ("pill good", "live") } else { ("pill bad", "stale") };
        html.tag("span", class, word);
    }
    html.raw("</header>");
}

fn body(html: &mut Html, fleet: &Fleet, now: i64) {
    if !fleet.fresh {
        html.tag("p", "banner bad", "etcd does not answer. This is the last good view; servers keep running what they run.");
    }
    if fleet.restored {
        html.tag("p", "banner bad", RESTORED);
    }
    if fleet.leader.is_none() {
        html.tag("p", "banner warn", "No coordinator leads: no rollout moves. Start one with: systemctl start coordinator");
    }
    for problem in fleet.problems.iter().take(PROBLEMS_SHOWN) {
        html.raw("<p class=\"banner warn\"><code>").text(&problem.key).raw("</code> ").text(&problem.error).raw("</p>");
    }
    html.raw("<div class=\"tiles\">");
    tiles(html, fleet);
    html.raw("</div>");
    if fleet.apps.is_empty() {
        html.raw("<section class=\"card empty\"><h2>Nothing is published yet</h2><p>In an application's directory: ");
        html.raw("<code>coordctl release publish</code></p></section>");
    }
    for (name, app) in &fleet.apps {
        app::section(html, fleet, name, app, now);
    }
}

/// Unreadable records that are named; the metrics count all.
const PROBLEMS_SHOWN: usize = 5;

fn tiles(html: &mut Html, fleet: &Fleet) {
    let totals = app::Totals::of(fleet);
    let mut tile = |class, value: String, label: &'static str| {
        html.open("div", class).tag("b", "", value).tag("span", "", label).close("div");
    };
    let (present, nodes) = (totals.present, fleet.nodes.len());
    let mood = |bad: usize| if bad == 0 { "tile" } else { "tile warn" };
    tile(mood(nodes - present), format!("{present} / {nodes}"), "servers present");
    tile(mood(totals.running - totals.healthy), format!("{} / {}", totals.healthy, totals.running), "instances healthy");
    tile(mood(totals.drifting), totals.drifting.to_string(), "off their release");
    tile("tile", totals.rollouts.to_string(), "rollouts under way");
}
