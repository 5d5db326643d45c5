//! Random orders of good and bad endings, changed minds and crashes: the machine never loops, never shows a drained server
//! as ready, and in good weather comes to where it was told to be.

use proptest::prelude::*;

use super::*;

/// A server as the machine cannot see it.
struct World {
    machine: Machine,
    /// What is on disk: saved before an action starts.
    saved: Journal,
    current: Option<ReleaseId>,
    drained: bool,
    generation: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Ends,
    Fails(FailureCode),
    /// The switch failed before or after the rename.
    SwitchFails {
        renamed: bool,
    },
    Interrupted,
    Retry,
    Told {
        run: u64,
        stage: Option<u64>,
        anew: bool,
    },
    /// The agent is killed; the action was done, or not.
    Crash {
        done: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let code = prop::sample::select(vec![
        FailureCode::Unhealthy,
        FailureCode::HookFailed,
        FailureCode::Store,
        FailureCode::ManifestMissing,
        FailureCode::SignatureInvalid,
        FailureCode::DiskFull,
    ]);
    prop_oneof![
        12 => Just(Step::Ends),
        3 => code.prop_map(Step::Fails),
        1 => any::<bool>().prop_map(|renamed| Step::SwitchFails { renamed }),
        1 => Just(Step::Interrupted),
        2 => Just(Step::Retry),
        2 => (1..5u64, prop::option::of(1..5u64), any::<bool>()).prop_map(|(run, stage, anew)| Step::Told { run, stage, anew }),
        2 => any::<bool>().prop_map(|done| Step::Crash { done }),
    ]
}

impl World {
    fn new() -> Self {
        Self { machine: machine(), saved: Journal::default(), current: None, drained: false, generation: 0 }
    }

    fn handle(&mut self, event: Event) {
        let failed = match &event {
            Event::Failed(_) | Event::NotSwitched(_) => self.machine.in_flight.clone(),
            _ => None,
        };
        self.machine.handle(event);
        self.saved = self.machine.journal().clone();
        if failed.is_some() {
            assert_ne!(self.machine.in_flight, failed, "what failed is not done again at once");
        }
        // The load balancer may see a server as soon as its drain hook begins.
        if self.at_hook(HookPhase::Drain) {
            self.drained = true;
        }
        self.check();
    }

    fn at_hook(&self, wanted: HookPhase) -> bool {
        self.machine.in_flight.as_ref().is_some_and(|a| is_hook(a, wanted))
    }

    fn check(&self) {
        assert!(!(self.drained && crate::run::is_ready(&self.machine.status(0))), "drained, and shown as ready");
        let running = self.machine.journal().running.as_ref().map(|r| &r.release);
        if self.machine.in_flight.as_ref().is_none_or(|a| !matches!(a, Action::Switch(_))) {
            assert_eq!(running, self.current.as_ref(), "the journal knows what is current");
        }
    }

    /// The action in flight is done in the world.
    fn act(&mut self) {
        match &self.machine.in_flight {
            Some(Action::Switch(release)) => self.current = Some(release.clone()),
            Some(Action::RunHooks { phase: HookPhase::Undrain, .. }) => self.drained = false,
            _ => {}
        }
    }

    fn end_well(&mut self) {
        self.act();
        match self.machine.in_flight.clone() {
            None => {}
            Some(Action::Load(seq) | Action::LoadServed(seq)) => {
                self.handle(Event::ManifestLoaded(manifest(seq.0, seq.0.saturating_sub(2), true)));
            }
            Some(Action::Prune { .. }) => self.handle(Event::Pruned(vec![])),
            Some(_) => self.handle(Event::Finished),
        }
    }

    /// As the agent opens an app: the journal from disk, and `current` is the truth.
    fn crash(&mut self) {
        let mut journal = self.saved.clone();
        if journal.running.as_ref().map(|r| &r.release) != self.current.as_ref() {
            journal.health = HealthState::Unproven;
            journal.running =
                self.current.clone().map(|release| Running { seq: journal.releases.get(&release).map_or(Seq(0), |f| f.seq), release });
        }
        self.machine = Machine::new("n".parse().expect("node"), "a".parse().expect("app"), journal);
        self.handle(Event::RetryDue);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ends => self.end_well(),
            Step::Fails(code) => {
                if let Some(action) = self.machine.in_flight.clone() {
                    let seq = action.seq().unwrap_or(Seq(0)).0;
                    match action {
                        Action::Switch(_) => self.handle(Event::NotSwitched(failure(seq, *code))),
                        _ => self.handle(Event::Failed(failure(seq, *code))),
                    }
                }
            }
            Step::SwitchFails { renamed } => {
                if matches!(self.machine.in_flight, Some(Action::Switch(_))) {
                    if *renamed {
                        self.act();
                    }
                    let failure = failure(2, FailureCode::Io);
                    self.handle(if *renamed { Event::Failed(failure) } else { Event::NotSwitched(failure) });
                }
            }
            Step::Interrupted => self.handle(Event::Interrupted),
            Step::Retry => self.handle(Event::RetryDue),
            Step::Told { run, stage, anew } => {
                self.generation += u64::from(*anew || self.generation == 0);
                self.handle(Event::GoalSeen(Goal { stable: Some(Seq(1)), ..goal(*run, *stage, self.generation) }));
            }
            Step::Crash { done } => {
                if *done {
                    self.act();
                }
                self.crash();
            }
        }
    }

    /// Until nothing is in flight.
    fn good_weather(&mut self) {
        for _ in 0..60 {
            if self.machine.in_flight.is_none() {
                return;
            }
            self.end_well();
        }
        panic!("it does not come to rest: {:?}", self.machine.in_flight);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_converges(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.generation += 1;
        // Above every floor.
        world.handle(Event::GoalSeen(goal(9, None, world.generation)));
        world.good_weather();
        let status = world.machine.status(0);
        prop_assert_eq!(status.running.map(|r| r.seq), Some(Seq(9)));
        prop_assert_eq!((status.health, status.failure), (HealthState::Healthy, None));
        prop_assert!(!world.drained && world.machine.journal().activity.is_none());
    }

    #[test]
    fn without_a_store_what_was_begun_is_brought_to_its_end(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.crash();
        world.good_weather();
        prop_assert!(world.machine.journal().activity.is_none());
        prop_assert_eq!(world.machine.status(0).step, coord_proto::report::Step::Idle);
    }
}
