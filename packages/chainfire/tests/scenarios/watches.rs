//! Watches: progress, the future, and transactions told once.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::WatchCreateRequest;
use chainfire_client::{Client, Op, Watch};
use testkit::Cluster;
use testkit::watched::{self, Change, Revision};
use testkit::workload::{Writers, plain};

use super::LONG;
use super::stream::{Stream, prefix, revisions};

/// Who is told "all up to R is sent" must have been sent all up to R: on a stream with many
/// watches, asked for all the time while writes go on, on a leader and on a follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15220_progress_is_never_told_ahead_of_events() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let leader = cluster.leader().await?;
    let client = cluster.client()?;
    let notices = if testkit::soak() { 20_000 } else { 400 };
    let mut writers = Writers::start(vec![client.clone(); 4], "p/");
    for place in [leader, (leader + 1) % 3] {
        let mut stream = Stream::open(cluster.channel(place)?).await?;
        // Some begin in the past, so that history is read while progress is asked for.
        for number in 0..10 {
            let start = if number % 2 == 0 { 0 } else { 2 };
            stream.ask(api::etcdserverpb::watch_request::RequestUnion::CreateRequest(
                WatchCreateRequest { watch_id: number + 1, ..prefix("p/", start) },
            ))?;
        }
        let (mut last, mut created): (HashMap<i64, i64>, HashMap<i64, i64>) = Default::default();
        let (mut told, mut behind) = (0, 0);
        stream.ask_progress()?;
        while told < notices {
            let answer = stream.next().await?;
            let header = answer.header.as_ref().context("header")?.revision;
            ensure!(!answer.canceled, "{answer:?}");
            if answer.created {
                created.insert(answer.watch_id, header);
            } else if answer.watch_id == -1 {
                told += 1;
                // All writes are below p/, so every revision that the stream was told of has an
                // event for every watch.
                for (id, at) in &created {
                    let seen = last.get(id).copied().unwrap_or(*at);
                    ensure!(seen >= header, "at {place}: told {header} when watch {id} had {seen}");
                }
                behind += i64::from(created.len() < 10);
                stream.ask_progress()?;
            } else {
                for revision in revisions(&answer) {
                    let before = last.insert(answer.watch_id, revision);
                    let follows = before.is_none_or(|before| revision == before + 1);
                    ensure!(follows, "watch {}: {before:?}, {revision}", answer.watch_id);
                }
            }
        }
        println!("at {place}: {told} notices, {behind} before all watches were there");
    }
    writers.stop().await
}

/// A watch from a revision that is still to come is sent nothing older, whatever happens on the
/// stream until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20221_a_watch_from_the_future_is_sent_nothing_old() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    for number in 0..50 {
        client.put(format!("f/{number}"), "old").await?;
    }
    for restart in [false, true] {
        if restart {
            cluster.kill(0);
            cluster.spawn(0)?;
            cluster.ready(0).await?;
        }
        let now = client.revision().await?;
        let start = now + 30;
        let mut stream = Stream::open(cluster.channel(0)?).await?;
        let future = stream.create(prefix("f/", start)).await?;
        let past = stream.create(prefix("f/", now - 20)).await?;
        let (mut first, mut told) = (None, 0);
        let mut seen_by_past = now - 21;
        for number in 0..60 {
            client.put(format!("f/{number}"), "new").await?;
            stream.ask_progress()?;
        }
        while seen_by_past < now + 60 || first.is_none() || told < 60 {
            let answer = stream.next().await?;
            told += usize::from(answer.watch_id == -1);
            for revision in revisions(&answer) {
                if answer.watch_id == past {
                    ensure!(revision == seen_by_past + 1, "{revision} after {seen_by_past}");
                    seen_by_past = revision;
                } else if answer.watch_id == future {
                    ensure!(revision >= start, "sent {revision}, watches from {start}");
                    first.get_or_insert(revision);
                }
            }
        }
        ensure!(first == Some(start), "the first was {first:?}, watched from {start}");
    }
    Ok(())
}

/// Every event of a transaction with several writes comes once, to watches from now and from the
/// past, while others read and write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_17247_events_of_transactions_come_once() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let members = cluster.client_of_each()?;
    let rounds = if testkit::soak() { 5000 } else { 150 };
    let first = members[0].put("x/begin", "x").await?;
    let writers = members.iter().cloned().enumerate().map(|(number, client)| {
        tokio::spawn(async move {
            let mut done: Vec<Revision> = Vec::new();
            for round in 0..rounds {
                done.push(transact(&client, number, round).await?);
                client.prefix("x/").await?;
            }
            anyhow::Ok(done)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut watches = Vec::new();
    for member in members.iter().cycle().take(12) {
        let begun = member.watch(Watch::prefix("x/").from(first)).await?;
        watches.push((begun, Vec::<Revision>::new()));
    }
    let mut truth: Vec<Revision> =
        vec![(first, vec![Change { key: "x/begin".into(), value: Some("x".into()) }])];
    for writer in writers {
        truth.extend(writer.await??);
    }
    truth.sort_by_key(|(revision, _)| *revision);
    let last = truth.last().context("writes")?.0;
    for member in &members {
        watches.push((member.watch(Watch::prefix("x/").from(first)).await?, Vec::new()));
    }
    for (watch, seen) in &mut watches {
        while seen.last().is_none_or(|(revision, _)| *revision < last) {
            let next = tokio::time::timeout(LONG, watch.next()).await.context("silent")??;
            seen.push(plain(next));
        }
        watched::check(&truth, seen, first, last)?;
    }
    println!("{} transactions, each seen once by {} watches", truth.len(), watches.len());
    Ok(())
}

/// Three keys written and one deleted; what must be told of it.
async fn transact(client: &Client, writer: usize, round: usize) -> Result<Revision> {
    let key = |number: usize| format!("x/{writer}/{number}");
    let value = format!("{round}");
    let mut changes = Vec::new();
    let mut txn = client.txn();
    for number in [2, 0, 1] {
        txn = txn.then(Op::put(key(number), value.clone()));
        changes.push(Change { key: key(number), value: Some(value.clone()) });
    }
    // What the round before wrote; the first finds nothing.
    let (gone, next) = (format!("x/{writer}/n{round}"), format!("x/{writer}/n{}", round + 1));
    txn = txn.then(Op::get(gone.clone())).then(Op::delete(gone.clone()));
    if round > 0 {
        changes.push(Change { key: gone, value: None });
    }
    txn = txn.then(Op::put(next.clone(), "n"));
    changes.push(Change { key: next, value: Some("n".into()) });
    let done = txn.commit().await?;
    ensure!(done.succeeded && done.results.len() == 6, "{done:?}");
    Ok((done.revision, changes))
}
