//! Figures for a person to look at: `cargo test --release -p consensus -- --ignored speed`.

use std::time::{Duration, Instant};

use crate::common::{self, Cluster, put};

fn cpu() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}

/// `NODES`, `CLIENTS` and `BATCHES` (in flight) narrow what is measured.
fn only(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

#[allow(clippy::print_stdout)]
async fn measure(nodes: u64, clients: usize) {
    let mut options = common::options();
    if let Some(n) = only("BATCHES") {
        options.batches_in_flight = n as usize;
    }
    let cluster = Cluster::form(nodes, options).await;
    let leader = cluster.leader(&(1..=nodes).collect::<Vec<_>>()).await;
    let (begin, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..clients)
        .map(|c| {
            let group = cluster.group(leader);
            tokio::spawn(async move {
                let mut n = 0_u64;
                while begin.elapsed() < Duration::from_secs(3) {
                    group.propose(put(&format!("{c}-{n}"))).await.unwrap();
                    n += 1;
                }
                n
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    let (puts, puts_cpu) = (done as f64 / begin.elapsed().as_secs_f64(), cpu() - used);
    let (begin, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let group = cluster.group(leader);
            tokio::spawn(async move {
                let mut n = 0_u64;
                while begin.elapsed() < Duration::from_secs(2) {
                    group.read_index().await.unwrap();
                    n += 1;
                }
                n
            })
        })
        .collect();
    let mut read = 0;
    for task in tasks {
        read += task.await.unwrap();
    }
    let (reads, reads_cpu) = (read as f64 / begin.elapsed().as_secs_f64(), cpu() - used);
    println!(
        "{nodes} nodes, {clients:3} clients: {puts:8.0} puts/s {:5.1} µs each, \
         {reads:8.0} reads/s {:5.1} µs each",
        puts_cpu.as_secs_f64() * 1e6 / done as f64,
        reads_cpu.as_secs_f64() * 1e6 / read as f64,
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, proves nothing"]
async fn speed() {
    for nodes in only("NODES").map_or(vec![1, 3], |n| vec![n]) {
        for clients in only("CLIENTS").map_or(vec![1, 16, 64, 256], |n| vec![n]) {
            measure(nodes, clients as usize).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, proves nothing"]
#[allow(clippy::print_stdout)]
async fn idle() {
    let cluster = Cluster::form(3, common::options()).await;
    cluster.leader(&[1, 2, 3]).await;
    let (begin, used) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = (cpu() - used).as_secs_f64() / begin.elapsed().as_secs_f64();
    println!("three idle nodes: {:.2} % of a core", share * 100.0);
    cluster.shutdown().await;
}
