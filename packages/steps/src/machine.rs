//! The run itself: a state machine that is asked [`Machine::next`] and [`Machine::tell`]-ed.

use std::time::Duration;

use crate::{Ledger, Outcome, Pause, Step};

/// What a probe or a verification saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The step is true already.
    True,
    /// It is not, and acting may make it so.
    False,
    /// It is not, and only something outside can make it so.
    Waiting(String),
}

/// An error of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code, as `FB-1004`.
    pub code: String,
    /// What failed.
    pub what: String,
    /// What to do.
    pub hint: String,
    /// Whether trying again may help (the network was away), or never will (a wrong disk).
    pub again: bool,
}

/// What the agent has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// See whether the step is true.
    Probe(Step),
    /// Make it true.
    Act(Step),
    /// See whether acting made it true.
    Verify(Step),
    /// Let this much time pass, then ask again.
    Pause(Step, Duration),
    /// All steps are true.
    Done,
    /// The run is over; the ledger says why.
    Stopped(Step, Failure),
}

/// What the agent tells of the thing it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A probe's or verification's answer.
    Saw(Probe),
    /// The act ended without an error; verification follows.
    Acted,
    /// The probe, act or verification failed.
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Probe,
    Act,
    Verify,
    Pause(Duration),
    Stopped(Failure),
}

/// One run over a plan of steps.
#[derive(Debug)]
pub struct Machine {
    plan: Vec<Step>,
    at: usize,
    phase: Phase,
    pause: Pause,
    /// When the current step was first probed in this run.
    began: Duration,
    /// Up to when its time is in the ledger.
    counted: Duration,
    ledger: Ledger,
    seed: u64,
}

impl Machine {
    /// A run over `plan`, which must be in the steps' order; steps that are left out are noted as
    /// off with their reason. `now` is the monotonic clock; `seed` spreads the pauses.
    pub fn new(
        plan: Vec<Step>,
        off: &[(Step, String)],
        mut ledger: Ledger,
        now: Duration,
        seed: u64,
    ) -> Self {
        debug_assert!(plan.is_sorted());
        ledger.runs = ledger.runs.saturating_add(1);
        for (step, reason) in off {
            ledger.note(*step, Outcome::Off { reason: reason.clone() }, 0, false);
        }
        if let Some(first) = plan.first() {
            ledger.note(*first, Outcome::Running, 0, false);
        }
        let pause = pause_of(plan.first(), seed);
        Machine { plan, at: 0, phase: Phase::Probe, pause, began: now, counted: now, ledger, seed }
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        let Some(&step) = self.plan.get(self.at) else { return Next::Done };
        match &self.phase {
            Phase::Probe => Next::Probe(step),
            Phase::Act => Next::Act(step),
            Phase::Verify => Next::Verify(step),
            Phase::Pause(pause) => Next::Pause(step, *pause),
            Phase::Stopped(failure) => Next::Stopped(step, failure.clone()),
        }
    }

    /// The ledger as it stands. The agent writes it whenever its generation rose.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// An older ledger of this machine came to light: see [`Ledger::go_on_from`].
    pub fn go_on_from(&mut self, older: &Ledger) {
        self.ledger.go_on_from(older);
    }

    /// Leaves out what of the plan is not done yet, but for `keep`; a step that is under way ends.
    pub fn keep_only(&mut self, keep: &[Step], reason: &str) {
        let done = self.plan.len().min(self.at);
        for step in self.plan.split_off(done) {
            if keep.contains(&step) {
                self.plan.push(step);
            } else {
                self.ledger.note(step, Outcome::Off { reason: reason.to_owned() }, 0, false);
            }
        }
        self.pause = pause_of(self.plan.get(self.at), self.seed);
        self.phase = Phase::Probe;
    }

    /// The pause is over.
    pub fn paused(&mut self) {
        if matches!(self.phase, Phase::Pause(_)) {
            self.phase = Phase::Probe;
        }
    }

    /// Takes the answer to what [`Machine::next`] asked for.
    pub fn tell(&mut self, told: Told, now: Duration) {
        let Some(&step) = self.plan.get(self.at) else { return };
        match (&self.phase, told) {
            (Phase::Probe | Phase::Verify, Told::Saw(Probe::True)) => self.advance(step, now),
            (Phase::Probe, Told::Saw(Probe::False)) => {
                self.note(step, Outcome::Running, now, true);
                self.phase = Phase::Act;
            }
            (Phase::Act, Told::Acted) => self.phase = Phase::Verify,
            (Phase::Verify, Told::Saw(Probe::False)) => {
                self.wait(step, "it is not true yet".to_owned(), now);
            }
            (Phase::Probe | Phase::Verify, Told::Saw(Probe::Waiting(reason))) => {
                self.wait(step, reason, now);
            }
            (_, Told::Failed(failure)) if failure.again => {
                let reason = format!("{} {}", failure.code, failure.what);
                self.wait(step, reason, now);
            }
            (_, Told::Failed(failure)) => self.stop(step, failure, now),
            // an answer to a question that was not asked changes nothing
            _ => {}
        }
    }

    fn advance(&mut self, step: Step, now: Duration) {
        self.note(step, Outcome::Done, now, false);
        self.at += 1;
        self.phase = Phase::Probe;
        self.began = now;
        self.pause = pause_of(self.plan.get(self.at), self.seed.wrapping_add(self.at as u64));
        if let Some(&following) = self.plan.get(self.at) {
            self.note(following, Outcome::Running, now, false);
        }
    }

    fn wait(&mut self, step: Step, reason: String, now: Duration) {
        if let Some(deadline) = step.limits().deadline
            && now.saturating_sub(self.began) > deadline
        {
            let failure = Failure {
                code: "FB-1001".to_owned(),
                what: format!("step {step} was not true within {} s: {reason}", deadline.as_secs()),
                hint: "mend the cause, then start firstboot again: it goes on here".to_owned(),
                again: false,
            };
            return self.stop(step, failure, now);
        }
        let outcome = Outcome::Waiting { reason };
        if self.ledger.steps.get(&step).map(|record| &record.outcome) != Some(&outcome) {
            self.note(step, outcome, now, false);
        }
        self.phase = Phase::Pause(self.pause.next_pause());
    }

    fn stop(&mut self, step: Step, failure: Failure, now: Duration) {
        let Failure { code, what, hint, .. } = failure.clone();
        self.note(step, Outcome::Failed { code, what, hint }, now, false);
        self.phase = Phase::Stopped(failure);
    }

    fn note(&mut self, step: Step, outcome: Outcome, now: Duration, acted: bool) {
        let millis = now.saturating_sub(self.counted).as_millis() as u64;
        self.counted = now;
        self.ledger.note(step, outcome, millis, acted);
    }
}

fn pause_of(step: Option<&Step>, seed: u64) -> Pause {
    let step = step.copied().unwrap_or(Step::Bless);
    Pause::new(seed, step.limits().longest_pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_secs;

    fn run(plan: &[Step]) -> Machine {
        Machine::new(plan.to_vec(), &[], Ledger::default(), AT(0), 7)
    }

    #[test]
    fn a_true_step_is_never_acted_on() {
        let mut machine = run(&[Step::Identify, Step::Clock]);
        machine.tell(Told::Saw(Probe::True), AT(1));
        assert_eq!(machine.next(), Next::Probe(Step::Clock));
        machine.tell(Told::Saw(Probe::True), AT(2));
        assert_eq!(machine.next(), Next::Done);
        assert_eq!(machine.ledger().steps[&Step::Identify].acts, 0);
        assert_eq!(machine.ledger().steps[&Step::Identify].millis, 1000);
    }

    #[test]
    fn probe_act_verify_then_the_next() {
        let mut machine = run(&[Step::Identity, Step::Enroll]);
        machine.tell(Told::Saw(Probe::False), AT(0));
        assert_eq!(machine.next(), Next::Act(Step::Identity));
        machine.tell(Told::Acted, AT(1));
        assert_eq!(machine.next(), Next::Verify(Step::Identity));
        machine.tell(Told::Saw(Probe::True), AT(1));
        assert_eq!(machine.next(), Next::Probe(Step::Enroll));
        assert_eq!(machine.ledger().steps[&Step::Identity].acts, 1);
    }

    #[test]
    fn waiting_for_a_peer_goes_on_for_ever_and_probes_again() {
        let mut machine = run(&[Step::Join]);
        for hour in 0..1000 {
            machine.tell(Told::Saw(Probe::Waiting("no leader".into())), AT(hour * 3600));
            assert!(matches!(machine.next(), Next::Pause(Step::Join, _)));
            machine.paused();
            assert_eq!(machine.next(), Next::Probe(Step::Join));
        }
        // one reason is one line: waiting does not wear the disk out
        assert!(machine.ledger().generation < 5);
    }

    #[test]
    fn a_step_over_its_deadline_stops_with_a_code() {
        let mut machine = run(&[Step::Disk]);
        let away =
            Failure { code: "FB-9".into(), what: "busy".into(), hint: String::new(), again: true };
        machine.tell(Told::Failed(away.clone()), AT(1));
        machine.paused();
        machine.tell(Told::Failed(away), AT(3600));
        let Next::Stopped(Step::Disk, failure) = machine.next() else {
            panic!("{:?}", machine.next())
        };
        assert_eq!(failure.code, "FB-1001");
        assert!(failure.what.contains("busy"));
    }

    #[test]
    fn what_would_destroy_data_is_not_tried_again() {
        let mut machine = run(&[Step::Disk, Step::Install]);
        let wrong = Failure {
            code: "FB-2001".into(),
            what: "foreign data".into(),
            hint: "consent".into(),
            again: false,
        };
        machine.tell(Told::Failed(wrong.clone()), AT(1));
        machine.paused();
        machine.tell(Told::Saw(Probe::True), AT(2));
        assert_eq!(machine.next(), Next::Stopped(Step::Disk, wrong));
    }

    #[test]
    fn the_rest_of_a_plan_can_be_left_out() {
        let mut machine = run(&[Step::Identify, Step::Clock, Step::Network, Step::Disk]);
        machine.tell(Told::Saw(Probe::True), AT(1));
        machine.keep_only(&[Step::Network], "rescue");
        assert_eq!(machine.next(), Next::Probe(Step::Network));
        machine.tell(Told::Saw(Probe::True), AT(2));
        assert_eq!(machine.next(), Next::Done);
        let off = Outcome::Off { reason: "rescue".into() };
        assert_eq!(machine.ledger().steps[&Step::Clock].outcome, off);
        assert_eq!(machine.ledger().steps[&Step::Disk].outcome, off);
        assert!(!machine.ledger().blessed());
    }

    /// Cut after any number of answers and started again with the ledger it had, a run over a
    /// world whose steps stay true ends the same way, and acts on no step that is true.
    #[test]
    fn cut_at_any_point_a_run_goes_on_and_repeats_nothing() {
        for cut in 0..40 {
            let mut world = std::collections::BTreeSet::new();
            let mut acts = std::collections::BTreeMap::<Step, u32>::new();
            let mut ledger = Ledger::default();
            let mut left = cut;
            for _run in 0..2 {
                let mut machine = Machine::new(Step::ALL.to_vec(), &[], ledger.clone(), AT(0), 1);
                loop {
                    match machine.next() {
                        Next::Probe(step) | Next::Verify(step) => machine.tell(
                            Told::Saw(if world.contains(&step) {
                                Probe::True
                            } else {
                                Probe::False
                            }),
                            AT(0),
                        ),
                        Next::Act(step) => {
                            *acts.entry(step).or_default() += 1;
                            world.insert(step);
                            machine.tell(Told::Acted, AT(0));
                        }
                        Next::Pause(..) => machine.paused(),
                        Next::Done => break,
                        Next::Stopped(..) => panic!("stopped"),
                    }
                    ledger = Ledger::decode(&machine.ledger().encode()).expect("own encoding");
                    if left == 0 {
                        left = usize::MAX;
                        break;
                    }
                    left -= 1;
                }
            }
            assert!(ledger.blessed(), "cut {cut}");
            assert!(acts.values().all(|&count| count == 1), "cut {cut}: {acts:?}");
        }
    }
}
