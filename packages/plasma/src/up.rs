//! `plasma up`: in the foreground, or as a supervisor in the background.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::bail;
use fault::{Fault, Kind};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::child::open_log;
use crate::cloud::{Cloud, Plan};
use crate::home::Home;
use crate::overview::{Observer, Overview};
use crate::screen::Screen;
use crate::{codes, print};

const WHILE_STARTING: Duration = Duration::from_millis(250);
const WHILE_RUNNING: Duration = Duration::from_secs(2);
/// In the background nobody looks: only the log is told when something changes.
const IN_BACKGROUND: Duration = Duration::from_secs(15);
/// A background start that takes longer is reported; the supervisor goes on.
const PATIENCE: Duration = Duration::from_secs(120);

/// `plasma up [--nodes N]`
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// How many nodes; without it as many as last time, or 3.
    #[arg(long, value_name = "N", overrides_with = "nodes")]
    nodes: Option<usize>,
    /// Go on in the background once the cloud is ready.
    #[arg(long)]
    detach: bool,
    /// Take names and roles from this inventory instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Be the supervisor in the background.
    #[arg(long, hide = true)]
    background: bool,
}

pub(crate) async fn up(home: Home, args: UpArgs) -> anyhow::Result<()> {
    if args.detach {
        return detach(home, args).await;
    }
    if args.background {
        // away from the terminal that started it: a hang-up must not end the cloud
        rustix::process::setsid()?;
    }
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        asked.cancel();
        telemetry::stop_signal().await;
        // asked twice: the children's lifelines end them
        std::process::exit(130);
    });
    let plan = Plan { nodes: args.nodes, inventory: args.inventory };
    let (tell, mut told) = mpsc::channel(64);
    let mut screen = Screen::new();
    screen.say(&format!("starting a cloud in {}", home.dir().display()));
    let mut cloud = match Cloud::prepare(home.clone(), &plan, tell).await {
        Ok(cloud) => cloud,
        Err(faults) => bail!("{}", lines(&faults)),
    };
    for warning in cloud.inventory().warnings() {
        screen.say(&format!("warning: {warning}"));
    }
    let began = Instant::now();
    let started = tokio::select! {
        started = cloud.start() => started,
        () = stop.cancelled() => Ok(()),
    };
    let mut observer = Observer::new(&home, cloud.inventory().clone());
    if started.is_ok() {
        let mut was_ready = false;
        let mut next = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                notice = told.recv() => {
                    if let Some(notice) = notice {
                        screen.say(&format!("{}: {}", notice.name, notice.text));
                    }
                    continue;
                }
                () = tokio::time::sleep(next) => {}
            }
            let view = tokio::select! {
                view = observer.look() => view,
                () = stop.cancelled() => break,
            };
            if view.ready && !was_ready {
                was_ready = true;
                screen.show(&view);
                screen.release();
                announce(&view, began);
            }
            screen.show(&view);
            next = match was_ready {
                true if args.background => IN_BACKGROUND,
                true => WHILE_RUNNING,
                false => WHILE_STARTING,
            };
        }
    }
    screen.release();
    screen.say("stopping: the nodes, then the boot server");
    cloud.stop().await;
    screen.release();
    screen.say("stopped; plasma up goes on with the same data");
    Ok(started?)
}

/// The result: what can be done with the cloud now.
fn announce(view: &Overview, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    print::result(&format!("\nready after {seconds:.1} s\n{}\n", print::next_steps(view)));
}

/// Ctrl-C, SIGTERM, or the terminal's end.
async fn asked_to_stop() {
    let hangup = async {
        match signal(SignalKind::hangup()) {
            Ok(mut hangups) => drop(hangups.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = telemetry::stop_signal() => {}
        () = hangup => {}
    }
}

/// Starts the supervisor in the background and watches until the cloud is ready.
async fn detach(home: Home, args: UpArgs) -> anyhow::Result<()> {
    home.create()?;
    // so that the common mistakes are reported here and not in a log
    drop(home.lock()?);
    let log = home.log("supervisor");
    let began = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("up").arg("--background").arg("--dir").arg(home.dir());
    if let Some(nodes) = args.nodes {
        command.arg("--nodes").arg(nodes.to_string());
    }
    if let Some(inventory) = args.inventory {
        command.arg("--inventory").arg(std::path::absolute(inventory)?);
    }
    let out = open_log(&log)?;
    let begin = out.metadata().map(|m| m.len()).unwrap_or_default();
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
    let mut screen = Screen::new();
    screen.say(&format!("starting a cloud in {} in the background", home.dir().display()));
    let mut observer: Option<Observer> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read(&log).unwrap_or_default();
            let tail = text.get(usize::try_from(begin)?..).unwrap_or_default();
            bail!("the supervisor ended with {status}:\n{}", String::from_utf8_lossy(tail).trim());
        }
        if observer.is_none()
            && home.supervisor().is_some_and(|s| s.alone)
            && home.operator().cert.exists()
        {
            observer = home.inventory()?.map(|inventory| Observer::new(&home, inventory));
        }
        if let Some(observer) = &mut observer {
            let view = observer.look().await;
            screen.show(&view);
            if view.ready {
                screen.release();
                announce(&view, began);
                screen.say(
                    "it goes on in the background: plasma status, plasma logs -f, plasma down",
                );
                return Ok(());
            }
        }
        if began.elapsed() > PATIENCE {
            let fault = Fault::new(
                codes::TOO_LATE,
                Kind::Deadline,
                format!("the cloud is not ready after {} s", PATIENCE.as_secs()),
                "it goes on starting: plasma status, plasma logs; give up: plasma down",
            );
            return Err(fault.into());
        }
        tokio::time::sleep(WHILE_STARTING).await;
    }
}

fn lines(faults: &[Fault]) -> String {
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    all.join("\n  ")
}
