//! What a run has got to, in a form that survives a power cut.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Step;

const FORMAT: u32 = 1;

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Outcome {
    /// It is under way.
    Running,
    /// It waits for something outside; the reason is for people.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// It is true.
    Done,
    /// It is not part of this node's plan.
    Off {
        /// Why not.
        reason: String,
    },
    /// It failed, and trying again by itself would not help or is over its deadline.
    Failed {
        /// The error's code, as `FB-1004`.
        code: String,
        /// What failed.
        what: String,
        /// What to do.
        hint: String,
    },
}

/// One step's line in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How it stands.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Time spent in it over all runs, in milliseconds of the monotonic clock.
    pub millis: u64,
    /// How often it was acted on, over all runs.
    pub acts: u32,
}

/// The ledger of a machine: which step stands how, in which generation.
///
/// It informs (progress, timings, the copy on the boot server); it never proves. Whether a step is
/// true is decided by its probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Ledger {
    /// Raised by one with every write; the boot server keeps the highest it saw.
    pub generation: u64,
    /// How often the agent was started.
    pub runs: u32,
    /// The steps that were begun.
    pub steps: BTreeMap<Step, Record>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    format: u32,
    checksum: String,
    ledger: Ledger,
}

/// Why a ledger could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LedgerError {
    /// It is no ledger, or cut short.
    #[error("not a ledger: {0}")]
    Garbled(String),
    /// Its bytes changed since it was written.
    #[error("checksum differs: written {written}, found {found}")]
    Checksum {
        /// The checksum in the file.
        written: String,
        /// The checksum of what was read.
        found: String,
    },
    /// A later version wrote it.
    #[error("format {0} is not known here")]
    Format(u32),
}

impl Ledger {
    /// The text to write.
    pub fn encode(&self) -> String {
        let sealed = Sealed { format: FORMAT, checksum: self.checksum(), ledger: self.clone() };
        let mut text = serde_json::to_string_pretty(&sealed).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads what [`Ledger::encode`] made.
    ///
    /// # Errors
    /// When the text is garbled, of another format, or its checksum differs.
    pub fn decode(text: &str) -> Result<Ledger, LedgerError> {
        let sealed: Sealed =
            serde_json::from_str(text).map_err(|error| LedgerError::Garbled(error.to_string()))?;
        if sealed.format != FORMAT {
            return Err(LedgerError::Format(sealed.format));
        }
        let found = sealed.ledger.checksum();
        if found != sealed.checksum {
            return Err(LedgerError::Checksum { written: sealed.checksum, found });
        }
        Ok(sealed.ledger)
    }

    /// Notes how a step stands, and raises the generation.
    pub fn note(&mut self, step: Step, outcome: Outcome, millis: u64, acted: bool) {
        let record = self.steps.entry(step).or_insert(Record {
            outcome: Outcome::Running,
            millis: 0,
            acts: 0,
        });
        record.outcome = outcome;
        record.millis = record.millis.saturating_add(millis);
        record.acts = record.acts.saturating_add(u32::from(acted));
        self.generation += 1;
    }

    /// Goes on where an older ledger of the same machine stands, which came to light later: a
    /// machine that boots has its folder in memory until its disk is mounted. How a step stands in
    /// this run counts; times and acts are added up; the generation only rises.
    pub fn go_on_from(&mut self, older: &Ledger) {
        for (step, record) in &older.steps {
            match self.steps.get_mut(step) {
                None => {
                    self.steps.insert(*step, record.clone());
                }
                Some(mine) => {
                    mine.millis = mine.millis.saturating_add(record.millis);
                    mine.acts = mine.acts.saturating_add(record.acts);
                }
            }
        }
        self.runs = self.runs.saturating_add(older.runs);
        self.generation = self.generation.max(older.generation).saturating_add(1);
    }

    /// Whether the last step is done: the machine is blessed.
    pub fn blessed(&self) -> bool {
        matches!(self.steps.get(&Step::Bless), Some(Record { outcome: Outcome::Done, .. }))
    }

    fn checksum(&self) -> String {
        // FNV-1a over the canonical JSON: this guards against a torn or edited file, not an enemy
        let text = serde_json::to_string(self).unwrap_or_default();
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.note(Step::Identify, Outcome::Done, 12, true);
        ledger.note(Step::Enroll, Outcome::Waiting { reason: "no token".into() }, 5, false);
        ledger.note(
            Step::Join,
            Outcome::Failed { code: "FB-1".into(), what: "x".into(), hint: "y".into() },
            5,
            true,
        );
        ledger
    }

    #[test]
    fn reads_back_what_it_wrote() {
        assert_eq!(Ledger::decode(&some().encode()), Ok(some()));
        assert_eq!(some().generation, 3);
        assert!(!some().blessed());
    }

    #[test]
    fn an_older_ledger_that_comes_to_light_is_gone_on_with() {
        let mut older = some();
        older.generation = 40;
        older.runs = 3;
        let mut mine = Ledger { runs: 1, ..Ledger::default() };
        mine.note(Step::Identify, Outcome::Done, 30, false);
        mine.note(Step::Disk, Outcome::Done, 7, false);
        mine.go_on_from(&older);
        assert_eq!((mine.generation, mine.runs), (41, 4));
        assert_eq!((mine.steps[&Step::Identify].millis, mine.steps[&Step::Identify].acts), (42, 1));
        assert_eq!(mine.steps[&Step::Join], older.steps[&Step::Join]);
        // one that is behind never takes the generation back
        mine.go_on_from(&Ledger::default());
        assert_eq!(mine.generation, 42);
    }

    #[test]
    fn every_cut_and_every_changed_digit_is_noticed() {
        let text = some().encode();
        for end in 0..text.len() - 2 {
            assert!(Ledger::decode(&text[..end]).is_err(), "cut at {end}");
        }
        let changed = text.replace("\"millis\": 12", "\"millis\": 13");
        assert!(matches!(Ledger::decode(&changed), Err(LedgerError::Checksum { .. })));
        let later = text.replace("\"format\": 1", "\"format\": 2");
        assert_eq!(Ledger::decode(&later), Err(LedgerError::Format(2)));
    }
}
