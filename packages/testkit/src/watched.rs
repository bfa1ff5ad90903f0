//! Did a watcher see exactly what happened?
//!
//! The truth is the cluster's final history by revision. A watcher that began at a revision must
//! have been told of every revision from there on: once, in order, whole, and nothing else.

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value; none: deleted.
    pub value: Option<String>,
}

/// A revision and its changes, in the order of the transaction.
pub type Revision = (i64, Vec<Change>);

/// What is wrong with what a watcher saw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A revision came after a later one.
    #[error("revision {got} came after {before}: reordered")]
    Reordered {
        /// The later revision, that came first.
        before: i64,
        /// The earlier one, that came second.
        got: i64,
    },
    /// A revision came twice.
    #[error("revision {0} came twice")]
    Doubled(i64),
    /// A revision never came.
    #[error("revision {0} never came")]
    Lost(i64),
    /// A revision came that the history does not have.
    #[error("revision {0} came and is not in the history")]
    Invented(i64),
    /// A revision came with other changes than the history has.
    #[error("revision {revision} came as {got:?}, the history has {truth:?}")]
    Differs {
        /// The revision.
        revision: i64,
        /// As it came.
        got: Vec<Change>,
        /// As it was.
        truth: Vec<Change>,
    },
}

/// Checks what a watcher of these keys saw from revision `from` up to and with `to`, against the
/// history of the same keys.
pub fn check(truth: &[Revision], seen: &[Revision], from: i64, to: i64) -> Result<(), Fault> {
    for pair in seen.windows(2) {
        let (before, got) = (pair[0].0, pair[1].0);
        if got == before {
            return Err(Fault::Doubled(got));
        }
        if got < before {
            return Err(Fault::Reordered { before, got });
        }
    }
    let within = |revision: &&Revision| (from..=to).contains(&revision.0);
    let mut truth = truth.iter().filter(within).peekable();
    for (revision, changes) in seen.iter().filter(within) {
        match truth.next() {
            Some((known, _)) if known < revision => return Err(Fault::Lost(*known)),
            Some((known, expected)) if known == revision => {
                if expected != changes {
                    let (got, truth) = (changes.clone(), expected.clone());
                    return Err(Fault::Differs { revision: *revision, got, truth });
                }
            }
            _ => return Err(Fault::Invented(*revision)),
        }
    }
    if let Some(early) = seen.iter().find(|(revision, _)| *revision < from) {
        return Err(Fault::Invented(early.0));
    }
    match truth.next() {
        Some((missing, _)) => Err(Fault::Lost(*missing)),
        None => Ok(()),
    }
}
