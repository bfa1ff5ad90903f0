//! The checkers accept good histories and reject bad ones, all made by hand.

use std::collections::BTreeMap;
use testkit::history::{Input, Operation, Output};
use testkit::linearizable::check_keys;
use testkit::watched::{self, Change, Fault};

fn op(start: u64, end: u64, input: Input, output: Output) -> Operation {
    Operation { client: 0, key: "k".into(), input, output, start, end }
}
fn put(start: u64, end: u64, value: &str) -> Operation {
    op(start, end, Input::Put(value.into()), Output::Done)
}
fn lost_put(start: u64, value: &str) -> Operation {
    op(start, u64::MAX, Input::Put(value.into()), Output::Unknown)
}
fn get(start: u64, end: u64, value: Option<&str>) -> Operation {
    op(start, end, Input::Get, Output::Saw(value.map(Into::into)))
}
fn cas(start: u64, end: u64, expect: Option<&str>, new: &str, output: Output) -> Operation {
    op(start, end, Input::Cas { expect: expect.map(Into::into), new: new.into() }, output)
}

fn linearizable(operations: Vec<Operation>) -> bool {
    check_keys(&BTreeMap::from([("k".to_owned(), operations)])).is_ok()
}

#[test]
fn good_histories_pass() {
    let conflict = |value: &str| Output::Conflict(Some(value.into()));
    let good: Vec<(&str, Vec<Operation>)> = vec![
        ("nothing", vec![]),
        ("one after the other", vec![put(0, 1, "a"), get(2, 3, Some("a"))]),
        ("empty before the first put", vec![get(0, 1, None), put(2, 3, "a")]),
        (
            "a read beside a write may see either",
            vec![put(0, 10, "a"), get(1, 2, None), get(3, 4, Some("a"))],
        ),
        (
            "two writes at once, in either order",
            vec![put(0, 10, "a"), put(0, 10, "b"), get(11, 12, Some("a"))],
        ),
        (
            "a lost write that was seen",
            vec![put(0, 1, "a"), lost_put(2, "b"), get(5, 6, Some("a")), get(7, 8, Some("b"))],
        ),
        (
            "a lost write that never happened",
            vec![put(0, 1, "a"), lost_put(2, "b"), get(5, 6, Some("a")), get(7, 8, Some("a"))],
        ),
        (
            "a lost write that happens long after",
            vec![lost_put(0, "b"), put(1, 2, "a"), get(3, 4, Some("a")), get(50, 51, Some("b"))],
        ),
        (
            "swaps in a chain",
            vec![
                cas(0, 1, None, "a", Output::Swapped),
                cas(2, 3, Some("a"), "b", Output::Swapped),
                cas(2, 9, Some("a"), "c", conflict("b")),
                get(10, 11, Some("b")),
            ],
        ),
        (
            "a lost swap that happened, and one that did not",
            vec![
                cas(0, 1, None, "a", Output::Swapped),
                cas(2, u64::MAX, Some("a"), "b", Output::Unknown),
                cas(2, u64::MAX, Some("a"), "c", Output::Unknown),
                get(9, 10, Some("b")),
            ],
        ),
        (
            "a lost put under a lost swap that was seen",
            vec![
                lost_put(0, "a"),
                cas(1, u64::MAX, Some("a"), "b", Output::Unknown),
                get(9, 10, Some("b")),
            ],
        ),
        (
            "a chain of lost swaps of which only the last was seen",
            vec![
                lost_put(0, "a"),
                cas(1, u64::MAX, Some("a"), "b", Output::Unknown),
                cas(2, u64::MAX, Some("b"), "c", Output::Unknown),
                get(9, 10, None),
                get(11, 12, Some("c")),
            ],
        ),
        (
            "a deletion",
            vec![put(0, 1, "a"), op(2, 3, Input::Delete, Output::Done), get(4, 5, None)],
        ),
    ];
    for (name, history) in good {
        assert!(linearizable(history), "rejected: {name}");
    }
}

#[test]
fn bad_histories_are_rejected() {
    let bad: Vec<(&str, Vec<Operation>)> = vec![
        ("a stale read", vec![put(0, 1, "a"), put(2, 3, "b"), get(4, 5, Some("a"))]),
        ("a lost acknowledged write", vec![put(0, 1, "a"), get(2, 3, None)]),
        ("a value that nobody wrote", vec![put(0, 1, "a"), get(2, 3, Some("x"))]),
        ("a read from the future", vec![get(0, 1, Some("a")), put(2, 3, "a")]),
        (
            "reads that go back",
            vec![put(0, 1, "a"), put(2, 20, "b"), get(5, 6, Some("b")), get(7, 8, Some("a"))],
        ),
        (
            "a lost write seen, then gone",
            vec![put(0, 1, "a"), lost_put(2, "b"), get(5, 6, Some("b")), get(7, 8, Some("a"))],
        ),
        (
            "a lost write seen before it was sent",
            vec![put(0, 1, "a"), get(2, 3, Some("b")), lost_put(4, "b")],
        ),
        (
            "two swaps from the same value",
            vec![
                cas(0, 1, None, "a", Output::Swapped),
                cas(2, 3, Some("a"), "b", Output::Swapped),
                cas(4, 5, Some("a"), "c", Output::Swapped),
            ],
        ),
        (
            "two winners at once",
            vec![cas(0, 9, None, "a", Output::Swapped), cas(0, 9, None, "b", Output::Swapped)],
        ),
        (
            "a conflict with what is not there",
            vec![put(0, 1, "a"), cas(2, 3, Some("x"), "b", Output::Conflict(Some("y".into())))],
        ),
        (
            "refused although it matched",
            vec![put(0, 1, "a"), cas(2, 3, Some("a"), "b", Output::Conflict(Some("a".into())))],
        ),
        (
            "a swap over a write it did not see",
            vec![put(0, 1, "a"), put(2, 3, "b"), cas(4, 5, Some("a"), "c", Output::Swapped)],
        ),
    ];
    for (name, history) in bad {
        assert!(!linearizable(history), "accepted: {name}");
    }
}

/// Honest histories of many clients, made by a register with random effect times, pass; the same
/// with one read made stale do not. Large enough to show that the search does not explode.
#[test]
fn large_histories_are_decided() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..8u64 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut clock = [0u64; 8];
        let mut calls = Vec::new(); // (effect, client, start, end)
        for _ in 0..2000 {
            let client = random.random_range(0..clock.len());
            let start = clock[client] + random.random_range(1..20);
            let effect = start + random.random_range(1..50);
            let end = effect + random.random_range(1..50);
            clock[client] = end;
            calls.push((effect, client, start, end));
        }
        calls.sort_unstable();
        let mut register: Option<testkit::history::Value> = None;
        let mut history = Vec::new();
        for (number, (_, client, start, end)) in calls.into_iter().enumerate() {
            let new: testkit::history::Value = format!("v{number}").into();
            let (input, output) = match random.random_range(0..10) {
                0..4 => (Input::Get, Output::Saw(register.clone())),
                4..6 => {
                    register = Some(new.clone());
                    (Input::Put(new), Output::Done)
                }
                6 => {
                    // The answer is lost; half of them happened.
                    if random.random_bool(0.5) {
                        register = Some(new.clone());
                    }
                    (Input::Put(new), Output::Unknown)
                }
                _ => {
                    let expect = register.clone();
                    register = Some(new.clone());
                    (Input::Cas { expect, new }, Output::Swapped)
                }
            };
            history.push(Operation { client, key: "k".into(), input, output, start, end });
        }
        assert!(linearizable(history.clone()), "seed {seed} rejected");

        let last = history.iter().map(|op| op.end).max().unwrap_or(0);
        let first_write = history.iter().find_map(|op| match (&op.input, &op.output) {
            (Input::Put(value), Output::Done) => Some(value.clone()),
            _ => None,
        });
        history.push(put(last + 1, last + 2, "newest"));
        history.push(op(last + 3, last + 4, Input::Get, Output::Saw(first_write)));
        assert!(!linearizable(history), "seed {seed} accepted a stale read");
    }
}

fn history(revisions: &[i64]) -> Vec<watched::Revision> {
    let change = |r: &i64| Change { key: format!("k{}", r % 3), value: Some(format!("v{r}")) };
    revisions.iter().map(|r| (*r, vec![change(r)])).collect()
}

#[test]
fn watchers_are_judged() {
    let truth = history(&[2, 3, 5, 8, 9]);
    let judge = |seen: &[i64], from, to| watched::check(&truth, &history(seen), from, to);
    assert_eq!(judge(&[2, 3, 5, 8, 9], 2, 9), Ok(()));
    assert_eq!(judge(&[5, 8, 9], 4, 9), Ok(()));
    assert_eq!(judge(&[5, 8], 4, 8), Ok(()));
    assert_eq!(judge(&[2, 5, 8, 9], 2, 9), Err(Fault::Lost(3)));
    assert_eq!(judge(&[2, 3, 5, 8], 2, 9), Err(Fault::Lost(9)));
    assert_eq!(judge(&[3, 5, 8, 9], 2, 9), Err(Fault::Lost(2)));
    assert_eq!(judge(&[2, 3, 3, 5, 8, 9], 2, 9), Err(Fault::Doubled(3)));
    assert_eq!(judge(&[2, 5, 3, 8, 9], 2, 9), Err(Fault::Reordered { before: 5, got: 3 }));
    assert_eq!(judge(&[2, 3, 4, 5, 8, 9], 2, 9), Err(Fault::Invented(4)));
    assert_eq!(judge(&[3, 5, 8, 9], 5, 9), Err(Fault::Invented(3)));

    let mut other = history(&[2, 3, 5, 8, 9]);
    other[1].1[0].value = Some("x".into());
    assert!(matches!(
        watched::check(&truth, &other, 2, 9),
        Err(Fault::Differs { revision: 3, .. })
    ));
}
