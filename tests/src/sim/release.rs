//! Releases as a seed draws them: their policy, their run-once tasks, and what is wrong with them.

use std::sync::Arc;

use coord_proto::ids::{Digest, Seq};
use coord_proto::labels::Selector;
use coord_proto::manifest::Manifest;
use coord_proto::trust::Envelope;

use super::dice::Dice;

/// A published release.
#[derive(Debug)]
pub struct Release {
    pub manifest: Arc<Manifest>,
    /// As it is stored. Signatures are for other tests.
    pub stored: Vec<u8>,
    pub flaws: Flaws,
}

/// What does not work, in so many of a thousand servers (always the same ones), or starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flaws {
    pub stage: u64,
    pub hook: u64,
    pub probe: u64,
    pub task_fails: u64,
    pub task_lost: u64,
}

impl Flaws {
    fn draw(dice: &mut Dice) -> Self {
        let share = |dice: &mut Dice| dice.pick(&[20, 100, 500, 1000]);
        let mut flaws = Self::default();
        match dice.between(0, 11) {
            0 => flaws.stage = share(dice),
            1 => flaws.hook = share(dice),
            2 | 3 => flaws.probe = share(dice),
            4 => flaws.task_fails = 1000,
            5 => flaws.task_lost = 700,
            _ => {}
        }
        flaws
    }

    /// Is this server one of those?
    pub fn hits(permille: u64, seq: Seq, server: usize) -> bool {
        let mixed = (server as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seq.0.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        (mixed >> 17) % 1000 < permille
    }
}

impl Release {
    /// Number `seq`, published while `floor` was stable.
    pub fn draw(dice: &mut Dice, seq: Seq, floor: Seq) -> Self {
        let tasks = dice.chance(650);
        let policy = policy(dice);
        let targets = if dice.chance(150) { r#"{"role":"web"}"# } else { "{}" };
        let (before, others) = if tasks { once(dice) } else { (String::new(), String::new()) };
        let health = if dice.chance(800) { r#","health":{"command":["probe"]}"# } else { "" };
        let cleanup = if dice.chance(200) { r#","cleanup":[{"command":["clean"]}]"# } else { "" };
        let keep = dice.between(1, 4);
        let rest = format!(
            r#""targets":{targets},"rollout":{policy},"layout":{{"keep_releases":{keep}}},
            "hooks":{{"restart":[{{"command":["restart"]}}]{cleanup}}}{before}{others}{health}"#
        );
        Self::of(seq, floor, &rest, Flaws::draw(dice))
    }

    /// One that works everywhere.
    pub fn flawless(seq: Seq, floor: Seq) -> Self {
        let rest = r#""rollout":{"serial":["25%"],"bake":"1s","max_unreachable":0},"health":{"command":["probe"]},"migrate":{"command":["migrate"]}"#;
        Self::of(seq, floor, rest, Flaws::default())
    }

    fn of(seq: Seq, floor: Seq, rest: &str, flaws: Flaws) -> Self {
        let digest = Digest::of(seq.to_string().as_bytes());
        let json = format!(
            r#"{{"version":1,"app":"mootube","environment":"e","release":"r{seq}","seq":{seq},"floor":{floor},"created":{seq},"revision":"x",
            "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,
            "pieces":["{digest}"]}},{rest}}}"#
        );
        let manifest = Manifest::decode(json.as_bytes()).unwrap_or_else(|e| panic!("a manifest that is valid: {e:?}\n{json}"));
        let stored = Envelope { manifest: manifest.encode(), signatures: vec![] }.encode();
        Self { manifest: Arc::new(manifest), stored, flaws }
    }

    /// A part of the servers, for `--limit`.
    pub fn limit(dice: &mut Dice) -> Option<Selector> {
        dice.chance(100).then(|| "zone=a".parse().expect("a selector"))
    }
}

fn policy(dice: &mut Dice) -> String {
    let serial = dice.pick(&["1", "3", "7", r#""10%""#, r#""25%""#, r#""50%""#, r#"[1,"25%"]"#, r#"[1,5,"40%"]"#, r#""100%""#]);
    let promote = if dice.chance(100) { "manual" } else { "auto" };
    let spread = if dice.chance(200) { "zone" } else { "" };
    let on_failure = if dice.chance(400) { "halt" } else { "rollback" };
    let failed = dice.pick(&["0", "0", "1", "3", r#""10%""#]);
    let away = dice.pick(&["0", "1", "5", r#""20%""#, r#""50%""#]);
    let (bake, deadline) = (dice.pick(&[0, 0, 2, 10]), dice.pick(&[20, 60, 120, 600]));
    format!(
        r#"{{"serial":{serial},"promote":"{promote}","spread":"{spread}","bake":"{bake}s","max_failed":{failed},"max_unreachable":{away},
        "on_failure":"{on_failure}","batch_deadline":"{deadline}s"}}"#
    )
}

/// `[migrate]`, and `[once.NAME]`.
fn once(dice: &mut Dice) -> (String, String) {
    let policy = |dice: &mut Dice| if dice.chance(300) { "retry" } else { "stop" };
    let reversible = dice.chance(850);
    let after = if dice.chance(350) { r#","after":{"command":["contract"]}"# } else { "" };
    let on = if dice.chance(100) { r#","on":{"zone":"a"}"# } else { "" };
    let migrate = format!(
        r#","migrate":{{"command":["migrate"],"timeout":"60s","on_unknown":"{}","reversible":{reversible}{on}{after}}}"#,
        policy(dice)
    );
    let when = dice.pick(&["before", "after"]);
    let assets =
        format!(r#","once":{{"assets":{{"command":["assets"],"when":"{when}","timeout":"60s","on_unknown":"{}"}}}}"#, policy(dice));
    (migrate, if dice.chance(200) { assets } else { String::new() })
}
