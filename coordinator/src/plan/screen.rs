//! A plan as people read it.

use std::time::Duration;

use coord_proto::rollout::{OnFailure, Promote};
use coord_proto::room::Room;
use indicatif::HumanBytes;

use super::{Plan, Planned, RoomVerdict, Rules};
use crate::counts;
use crate::rollout::names;
use crate::ui::Table;

impl Plan {
    /// The screen.
    pub fn text(&self) -> String {
        let (size, needs) = (HumanBytes(self.size), HumanBytes(self.needs.bytes));
        let mut text = format!(
            "plan for {}: release {} (number {}), an archive of {size}; a server needs {needs} and {} inodes\n\n",
            self.app, self.release, self.seq, self.needs.inodes
        );
        match self.servers.as_slice() {
            [] => text += "no server matches\n",
            _ => text += &format!("{}\n{}\n", self.table().render(), self.sums()),
        }
        if !self.left_out.is_empty() {
            let mut table = Table::new(&["LEFT OUT", "WHY"]);
            self.left_out.iter().for_each(|left| table.row([left.server.to_string(), left.why.to_owned()]));
            text += &format!("\n{}", table.render());
        }
        if self.servers.is_empty() { text } else { text + "\n" + &self.rules.text() }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["BATCH", "SERVER", "STATE", "RUNS", "PULLS", "MAY RUN", "ROOM"]);
        for server in &self.servers {
            table.row([
                server.batch.to_string(),
                server.server.to_string(),
                if server.present { "present" } else { "absent" }.to_owned(),
                server.runs.as_ref().map(ToString::to_string).unwrap_or_default(),
                HumanBytes(server.pulls).to_string(),
                server.may_run.join(", "),
                server.room_words(),
            ]);
        }
        table
    }

    fn sums(&self) -> String {
        let pulled: u64 = self.servers.iter().map(|server| server.pulls).sum();
        let absent = self.servers.iter().filter(|server| !server.present).count();
        let absent = if absent == 0 { String::new() } else { format!(", {absent} of them absent") };
        format!("{} in {}{absent}; {} in all", counted(self.servers.len(), "server"), self.rules.batch_words(), HumanBytes(pulled))
    }
}

impl Planned {
    fn room_words(&self) -> String {
        let free = |pick: fn(Room) -> String| self.free.map(pick).unwrap_or_default();
        match self.room {
            RoomVerdict::Held => "has it already".to_owned(),
            RoomVerdict::Enough => format!("enough, {} free", free(|room| HumanBytes(room.bytes).to_string())),
            RoomVerdict::TooFewBytes => format!("TOO LITTLE, {} free", free(|room| HumanBytes(room.bytes).to_string())),
            RoomVerdict::TooFewInodes => format!("TOO FEW INODES, {} free", free(|room| room.inodes.to_string())),
            RoomVerdict::NotReported => "not reported yet".to_owned(),
        }
    }
}

impl Rules {
    fn text(&self) -> String {
        let then = match (self.on_failure, self.reversible) {
            (OnFailure::Halt, _) => "then every server stays as it is",
            (OnFailure::Rollback, true) => "then every server goes back to the release that it had",
            (OnFailure::Rollback, false) => {
                "then every server goes back to the release that it had; once the migration has begun, it stays as it is"
            }
        };
        let next = match self.promote {
            _ if self.batches.len() < 2 => "",
            Promote::Auto => ", then the next one opens",
            Promote::Manual => ", then the next one opens; the second waits for `coordctl rollout promote`",
        };
        let time = |seconds| humantime::format_duration(Duration::from_secs(seconds));
        format!("{}; {then}\na batch has {} and must stay healthy for {}{next}\n", self.halts, time(self.batch_deadline), time(self.bake))
    }

    /// `5 batches of 1, 3, 3, 3 and 2`.
    fn batch_words(&self) -> String {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for size in &self.batches {
            match runs.last_mut() {
                Some((times, same)) if same == size => *times += 1,
                _ => runs.push((1, *size)),
            }
        }
        let parts: Vec<String> =
            runs.iter().map(|(times, size)| if *times == 1 { size.to_string() } else { format!("{times} × {size}") }).collect();
        let of = if parts.is_empty() { String::new() } else { format!(" of {}", parts.join(", ")) };
        format!("{}{of} (serial {})", counts::batches(self.batches.len()), self.serial)
    }
}

/// `halts at the 3rd failed server, at the 1st unreachable one`.
pub(super) fn halts(max_failed: usize, max_unreachable: usize, total: usize) -> String {
    let at = |max: usize, what: &str| (max < total).then(|| format!("at the {} {what}", ordinal(max + 1)));
    match (at(max_failed, "failed server"), at(max_unreachable, "unreachable one")) {
        _ if total == 0 => "begins nowhere, so it halts nowhere".to_owned(),
        (Some(failed), Some(away)) => format!("halts {failed}, {away}"),
        (Some(failed), None) => format!("halts {failed}, and for no unreachable one"),
        (None, Some(_)) => format!("halts at the {} unreachable server, and for no failed one", ordinal(max_unreachable + 1)),
        (None, None) => "never halts: as many may fail or be unreachable as there are servers".to_owned(),
    }
}

/// `1st`, `2nd`, `3rd`, `11th`, `21st`.
fn ordinal(number: usize) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

/// A few names, and how many more.
pub(super) fn names(servers: &[&Planned]) -> String {
    let all: Vec<&str> = servers.iter().map(|server| server.server.as_str()).collect();
    names::short(&all)
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_halts_is_the_number_after_those_that_are_tolerated() {
        assert_eq!(halts(2, 0, 12), "halts at the 3rd failed server, at the 1st unreachable one");
        assert_eq!(halts(0, 9, 9), "halts at the 1st failed server, and for no unreachable one");
        assert_eq!(halts(3, 1, 3), "halts at the 2nd unreachable server, and for no failed one");
        assert_eq!(halts(3, 3, 3), "never halts: as many may fail or be unreachable as there are servers");
    }

    #[test]
    fn numbers_have_the_ends_that_english_gives_them() {
        let ends: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].into_iter().map(ordinal).collect();
        assert_eq!(ends, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]);
    }
}
