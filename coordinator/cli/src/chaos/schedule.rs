//! The order of faults: what breaks, where, and for how long. It follows from the seed and from what there is to break.

use std::fmt;
use std::time::Duration;

use radialog_training::random::Random;
use serde::Serialize;

/// One fault in so many comes together with the next one.
const TOGETHER: usize = 5;
/// How long a fault lasts at least and at most, in seconds. The longest outlast the heartbeats that the roles are given.
const SHORTEST: f64 = 0.05;
const LONGEST: f64 = 2.0;
const LONGEST_SILENCE: f64 = 8.0;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// SIGKILL to a role, which is started again.
    Kill,
    /// SIGSTOP to a role, and SIGCONT later: it believes that no time has passed.
    Freeze,
    /// SIGTERM to a role, which must end by itself, and is started again.
    Terminate,
    /// A link closed; connections are refused.
    Cut,
    /// A link on which nothing passes and nothing is closed.
    Stall,
    /// A link whose answers are lost.
    LoseAnswers,
    /// A link whose connections break at once.
    Reset,
    /// The broker killed, and started again with what it had stored.
    KillBroker,
    /// Redis killed, and started again with what it had stored.
    KillState,
    /// A stored object that is not in use deleted.
    DeleteObject,
    /// A stored object that is not in use cut in half.
    TruncateObject,
    /// A stored object that is not in use emptied.
    EmptyObject,
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// The role or link; empty where there is one of it.
    pub(crate) target: String,
    /// How long it lasts.
    pub(crate) lasts: Duration,
    /// What decides which object it is.
    pub(crate) draw: u64,
}

/// What there is to break.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    pub(crate) roles: Vec<String>,
    pub(crate) links: Vec<String>,
    /// Broker and Redis are ours to kill.
    pub(crate) services: bool,
}

/// Faults without end; those of one item happen together.
pub(crate) struct Schedule {
    random: Random,
    targets: Targets,
    weights: Vec<f32>,
}

impl FaultKind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Kill,
        Self::Freeze,
        Self::Terminate,
        Self::Cut,
        Self::Stall,
        Self::LoseAnswers,
        Self::Reset,
        Self::KillBroker,
        Self::KillState,
        Self::DeleteObject,
        Self::TruncateObject,
        Self::EmptyObject,
    ];

    /// How often it is drawn, beside the others.
    fn weight(self, targets: &Targets) -> f32 {
        let (among, weight) = match self {
            Self::Kill => (!targets.roles.is_empty(), 6.0),
            Self::Freeze | Self::Terminate => (!targets.roles.is_empty(), 3.0),
            Self::Cut | Self::Stall | Self::LoseAnswers | Self::Reset => {
                (!targets.links.is_empty(), 1.5)
            }
            // They hit everybody, and a broker takes seconds to start.
            Self::KillBroker => (targets.services, 0.7),
            Self::KillState => (targets.services, 1.3),
            Self::DeleteObject | Self::TruncateObject | Self::EmptyObject => (true, 1.0),
        };
        if among { weight } else { 0.0 }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Kill => "process killed",
            Self::Freeze => "process frozen",
            Self::Terminate => "process told to stop",
            Self::Cut => "link cut",
            Self::Stall => "link stalled",
            Self::LoseAnswers => "answers lost",
            Self::Reset => "link reset",
            Self::KillBroker => "broker killed",
            Self::KillState => "Redis killed",
            Self::DeleteObject => "object deleted",
            Self::TruncateObject => "object truncated",
            Self::EmptyObject => "object emptied",
        }
    }
}

impl Schedule {
    pub(crate) fn new(seed: u64, targets: Targets) -> Self {
        let weights = FaultKind::ALL.map(|kind| kind.weight(&targets)).to_vec();
        Self {
            random: Random::stream(seed, "faults"),
            targets,
            weights,
        }
    }

    fn fault(&mut self) -> Fault {
        let kind = FaultKind::ALL[self.random.weighted(&self.weights)];
        let target = match kind {
            FaultKind::Kill | FaultKind::Freeze | FaultKind::Terminate => {
                self.random.pick(&self.targets.roles).clone()
            }
            FaultKind::Cut | FaultKind::Stall | FaultKind::LoseAnswers | FaultKind::Reset => {
                self.random.pick(&self.targets.links).clone()
            }
            _ => String::new(),
        };
        let longest = match kind {
            FaultKind::Freeze | FaultKind::Stall | FaultKind::LoseAnswers => LONGEST_SILENCE,
            _ => LONGEST,
        };
        Fault {
            kind,
            target,
            lasts: Duration::from_secs_f64(self.random.between(SHORTEST, longest)),
            draw: self.random.bits(),
        }
    }
}

impl Iterator for Schedule {
    type Item = Vec<Fault>;

    fn next(&mut self) -> Option<Vec<Fault>> {
        let mut together = vec![self.fault()];
        if self.random.below(TOGETHER) == 0 {
            let second = self.fault();
            // A role or link has one fault at a time; a service or object that has two is no worse off.
            if second.target != together[0].target || second.target.is_empty() {
                together.push(second);
            }
        }
        Some(together)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.kind.words();
        match self.target.is_empty() {
            true => f.write_str(words),
            false => write!(f, "{words}: {}", self.target),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn targets() -> Targets {
        Targets {
            roles: ["worker findings", "gateway 1"].map(String::from).into(),
            links: vec!["workers to broker".into()],
            services: true,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_order_and_another_one_another() {
        let order = |seed| -> Vec<_> { Schedule::new(seed, targets()).take(200).collect() };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }

    #[test]
    fn every_kind_comes_and_what_is_not_ours_is_left_alone() {
        let kinds = |targets: Targets| -> BTreeSet<FaultKind> {
            let faults = Schedule::new(1, targets).take(2000).flatten();
            faults.map(|fault| fault.kind).collect()
        };
        assert_eq!(kinds(targets()), BTreeSet::from(FaultKind::ALL));
        let given = Targets {
            services: false,
            ..targets()
        };
        let kinds = kinds(given);
        assert!(!kinds.contains(&FaultKind::KillBroker) && !kinds.contains(&FaultKind::KillState));
    }
}
