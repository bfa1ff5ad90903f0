//! A simulated cluster, and what befalls it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::{NodeId, Role};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Lived;
use super::chance::Dice;
use super::clients::Doors;
use super::leases::{Holder, Leases};
use super::net::{Net, Weather};
use super::node::{Common, SimNode};
use super::trace::{self, note};
use super::truth::Truth;
use super::watchers::{Watched, Watcher};
use super::work::{Seen, Worker};

/// How long trouble lasts, in milliseconds of the simulated world.
const TROUBLE: u64 = 7_000;
/// How long it may take to recover from all of it.
const RECOVERY: Duration = Duration::from_secs(60);

struct World {
    dice: Dice,
    common: Common,
    nodes: BTreeMap<NodeId, SimNode>,
    /// Nodes that are down, and when they come back.
    down: BTreeMap<NodeId, Instant>,
    next_id: NodeId,
    removed: usize,
}

/// What a seed came to.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
pub(super) struct Outcome {
    pub(super) nodes: usize,
    pub(super) answered: usize,
    pub(super) failed: usize,
    pub(super) entries: usize,
    pub(super) events: usize,
    pub(super) installs: u64,
    pub(super) expired: usize,
    pub(super) digest: u64,
}

/// Lives through a whole history; the error says all that was wrong with it.
pub(super) async fn play(seed: u64, lying_disks: bool) -> Lived<Outcome> {
    consensus::run_in_place();
    let mut dice = Dice::new(seed);
    let count = if dice.one_in(4) { 5 } else { 3 };
    let heartbeat = dice.pick(&[100, 150, 250]);
    let truth = Arc::new(Mutex::new(Truth::new()));
    let common = Common {
        net: Net::new(dice.fork()),
        doors: Doors::new(dice.fork()),
        truth: truth.clone(),
        heartbeat,
        election: heartbeat * dice.between(3, 5),
        keep_entries: dice.pick(&[5, 30, 1000]),
        lying_disks,
        spool: Arc::new(super::own_folder().map_err(|e| e.to_string())?),
    };
    note!("seed {seed}: {count} nodes");
    let nodes = BTreeMap::new();
    let mut world = World { dice, common, nodes, down: BTreeMap::new(), next_id: 1, removed: 0 };
    world.form(count).await?;

    let until = Instant::now() + Duration::from_millis(TROUBLE);
    let (doors, stop) = (world.common.doors.clone(), CancellationToken::new());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let leases = Arc::new(Mutex::new(Leases::default()));
    let mut clients = Vec::new();
    for id in 1..=3 {
        let worker = Worker::new(id, world.dice.fork(), &doors, &truth, &seen);
        clients.push(tokio::spawn(worker.run(until)));
    }
    let (dice, leases_too) = (world.dice.fork(), leases.clone());
    let holder = Holder { id: 1, dice, doors: doors.clone(), leases: leases_too, granted: 0 };
    clients.push(tokio::spawn(holder.run(until)));
    let mut watches = Vec::new();
    for id in 1..=2 {
        let watcher = Watcher::new(id, world.dice.fork(), &doors, &truth);
        watches.push(watcher.seen.clone());
        clients.push(tokio::spawn(watcher.run(stop.clone())));
    }

    while Instant::now() < until && truth.lock().violations.is_empty() {
        let pause = world.dice.between(50, 1200);
        sleep(Duration::from_millis(pause)).await;
        world.trouble().await?;
    }
    let recovered = world.recover(&watches).await;
    stop.cancel();
    for client in clients {
        client.await.map_err(|e| e.to_string())?;
    }
    for node in world.nodes.values_mut() {
        node.stop().await;
    }
    if let Err(why) = recovered {
        truth.lock().violated(why.to_string());
    }
    let truth = &mut *truth.lock();
    let seen = seen.lock();
    seen.judge(truth);
    watches.iter().for_each(|watched| watched.lock().judge(truth));
    leases.lock().judge(truth);
    if !truth.violations.is_empty() {
        return Err(truth.violations.join("\n").into());
    }
    Ok(Outcome {
        nodes: count as usize,
        answered: seen.answered,
        failed: seen.failed,
        entries: truth.entry_count(),
        events: truth.events.len(),
        installs: truth.installs,
        expired: leases.lock().expired(truth),
        digest: trace::digest(),
    })
}

impl World {
    fn add(&mut self) -> NodeId {
        let id = self.next_id;
        self.next_id += 1;
        let node = SimNode::new(id, &self.common, &mut self.dice);
        self.nodes.insert(id, node);
        id
    }

    fn node(&mut self, id: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&id).expect("the node was made")
    }

    async fn form(&mut self, count: u64) -> Lived<()> {
        for _ in 0..count {
            let id = self.add();
            self.node(id).start().await?;
        }
        self.node(1).form().await?;
        for id in 2..=count {
            self.join(id).await?;
        }
        Ok(())
    }

    /// Lets a node in; it becomes a voter by itself.
    async fn join(&mut self, id: NodeId) -> Lived<()> {
        let info = self.node(id).info();
        let group = self.leader().and_then(|leader| self.node(leader).group().cloned());
        let Some(group) = group else { return Ok(()) };
        match group.add_learner(id, info).await {
            Ok(()) => note!("{id} is let in"),
            Err(error) => note!("{id} is not let in: {error}"),
        }
        Ok(())
    }

    fn leader(&mut self) -> Option<NodeId> {
        let leads = |node: &SimNode| node.group().is_some_and(|group| group.status().leads());
        self.nodes.values().find(|node| leads(node)).map(|node| node.id)
    }

    fn running(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.is_running()).map(|node| node.id).collect()
    }

    fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|other| *other != node).collect()
    }

    /// Something happens.
    async fn trouble(&mut self) -> Lived<()> {
        self.come_back(false).await?;
        let running = self.running();
        let Some(any) = (!running.is_empty()).then(|| self.dice.pick(&running)) else {
            return Ok(());
        };
        let victim = if self.dice.one_in(2) { self.leader().unwrap_or(any) } else { any };
        match self.dice.below(16) {
            0 | 1 => {
                note!("{victim} is cut off");
                let others = self.others(victim);
                let links: Vec<_> =
                    others.iter().flat_map(|o| [(victim, *o), (*o, victim)]).collect();
                self.common.net.cut(&links);
            }
            2 => {
                note!("{victim} is not heard");
                let links: Vec<_> = self.others(victim).iter().map(|o| (victim, *o)).collect();
                self.common.net.cut(&links);
            }
            3 => {
                note!("{victim} hears nobody");
                let links: Vec<_> = self.others(victim).iter().map(|o| (*o, victim)).collect();
                self.common.net.cut(&links);
            }
            4 | 5 => {
                note!("the network is healed");
                self.common.net.heal();
            }
            6 | 7 => self.die(victim, false).await,
            8 => self.die(victim, true).await,
            9 if self.dice.one_in(3) => {
                note!("the power goes for all");
                for id in running {
                    self.die(id, true).await;
                }
            }
            9 | 10 => {
                let calls = self.dice.between(1, 40);
                note!("{victim} loses its power after {calls} calls to the disk");
                self.node(victim).disk.lose_power_after(calls);
            }
            11 => {
                let room = self.dice.below(100_000);
                note!("{victim} has room for {room} bytes");
                self.node(victim).disk.limit_room(Some(room));
            }
            12 => {
                let syncs = self.dice.below(10);
                note!("{victim} fails its sync number {syncs}");
                self.node(victim).disk.fail_sync_after(syncs);
            }
            13 => {
                let millis = self.dice.pick(&[1, 20, 100, 600]);
                note!("{victim} syncs in {millis} ms");
                self.node(victim).sync.lock().0 = millis;
            }
            14 => {
                let delay = self.dice.pick(&[2, 10, 50, 200]);
                let lost = self.dice.pick(&[20, 100, 1000]);
                note!("weather: {delay} ms, lost 1 in {lost}");
                self.common.net.weather(Weather { delay, lost });
            }
            _ => self.members(victim).await?,
        }
        Ok(())
    }

    async fn die(&mut self, id: NodeId, power: bool) {
        self.node(id).die(power).await;
        let back = Instant::now() + Duration::from_millis(self.dice.between(10, 3000));
        self.down.insert(id, back);
    }

    /// A leader hands over, or a member is replaced by a new one.
    async fn members(&mut self, victim: NodeId) -> Lived<()> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(group) = self.node(leader).group().cloned() else { return Ok(()) };
        if self.dice.one_in(2) {
            note!("{leader} hands over to {victim}");
            let handing =
                tokio::time::timeout(Duration::from_secs(2), group.transfer_leader(victim));
            let _ = handing.await;
            return Ok(());
        }
        let removed = tokio::time::timeout(Duration::from_secs(3), group.remove(victim)).await;
        note!("{victim} is removed: {removed:?}");
        if matches!(removed, Ok(Ok(()))) {
            self.removed += 1;
            self.node(victim).stop().await;
            self.nodes.remove(&victim);
            self.down.remove(&victim);
            let id = self.add();
            self.node(id).start().await?;
            self.join(id).await?;
        }
        Ok(())
    }

    /// Starts what is due, and what has failed.
    async fn come_back(&mut self, all: bool) -> Lived<()> {
        let failed: Vec<NodeId> =
            self.nodes.values().filter(|n| n.is_running() && !n.is_well()).map(|n| n.id).collect();
        for id in failed {
            let power = self.dice.one_in(2);
            self.die(id, power).await;
        }
        let now = Instant::now();
        let due: Vec<NodeId> =
            self.down.iter().filter(|(_, at)| all || **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.down.remove(&id);
            self.node(id).start().await?;
        }
        Ok(())
    }

    /// All trouble ends. The cluster must become whole again, and the watches see everything.
    async fn recover(&mut self, watches: &[Arc<Mutex<Watched>>]) -> Lived<()> {
        note!("all trouble ends");
        self.common.net.heal();
        self.common.net.weather(Weather { delay: 2, lost: 1000 });
        self.common.doors.calm();
        for node in self.nodes.values() {
            node.disk.limit_room(None);
            node.sync.lock().0 = 2;
        }
        let deadline = Instant::now() + RECOVERY;
        let mut unlisted = Vec::new();
        loop {
            self.come_back(true).await?;
            let whole = self.whole(watches, &mut unlisted).await;
            let Err(why) = whole else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(format!("not whole again: {why}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether all nodes have applied everything and have the same, and the watches too.
    async fn whole(
        &mut self,
        watches: &[Arc<Mutex<Watched>>],
        unlisted: &mut Vec<NodeId>,
    ) -> Lived<()> {
        let leader = self.leader().ok_or("no leader")?;
        let status = self.node(leader).group().ok_or("no group")?.status();
        for id in self.running() {
            // It was not let in for all the trouble: now it is.
            if status.member(id).is_none() && !unlisted.contains(&id) {
                unlisted.push(id);
                self.join(id).await?;
            }
        }
        for node in self.nodes.values() {
            let now = node.group().ok_or_else(|| format!("{} does not run", node.id))?.status();
            if now.applied < status.committed || now.leader != Some(leader) {
                return Err(format!(
                    "{} has applied {} of {}",
                    node.id, now.applied, status.committed
                )
                .into());
            }
            if !status.member(node.id).is_some_and(|member| member.voter) {
                return Err(format!("{} does not vote", node.id).into());
            }
            if now.role == Role::Learner {
                return Err(format!("{} does not know that it votes", node.id).into());
            }
        }
        let truth = self.common.truth.lock();
        if !truth.leases.is_empty() {
            return Err(format!("leases do not end: {:?}", truth.leases).into());
        }
        let behind = watches.iter().map(|watched| watched.lock().next).min();
        if behind.is_some_and(|next| next <= truth.revision) {
            return Err(format!("a watch has seen up to {behind:?} of {}", truth.revision).into());
        }
        drop(truth);
        let mut hashes = BTreeMap::new();
        for node in self.nodes.values() {
            hashes.insert(node.id, node.hash());
        }
        let mut values: Vec<_> = hashes.values().collect();
        values.dedup();
        if values.len() > 1 {
            self.common.truth.lock().violated(format!("members differ: {hashes:?}"));
        }
        Ok(())
    }
}
