//! Step clock: certificates mean nothing to a machine that does not know the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fault::{Fault, Kind};
use rpc::ServerTime;
use steps::Probe;

use crate::{MachineSettings, Mode, Settings, codes, command, enroll, files};

/// Certificates are dated back by five minutes, so a clock within two is right enough.
const CLOSE: Duration = Duration::from_secs(120);
/// Setting the hardware clock waits for the turn of a second.
const HARDWARE: Duration = Duration::from_secs(5);

/// What is known to be over, since 1970: the later of the moment before which the node's
/// certificate was no certificate, and the moment written down by [`remember`]. A boot server that
/// says an earlier time is not believed.
pub(crate) fn floor(settings: &Settings) -> Duration {
    let began = enroll::node_dates(settings).map(|(began, _)| began).unwrap_or_default();
    began.max(last_seen(settings))
}

fn last_seen(settings: &Settings) -> Duration {
    let seconds = std::fs::read_to_string(settings.last_seen()).ok();
    let seconds = seconds.and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// Writes down what time it is, for the next [`floor`]. The clock must have been found right. A
/// time at which the node's own certificate does not hold is not written down, so a clock that is
/// set wrongly later shuts nobody out for longer than that.
pub(crate) fn remember(settings: &Settings, now: Duration) -> Result<(), Fault> {
    let holds = enroll::node_dates(settings).is_some_and(|(from, to)| from <= now && now < to);
    if !holds || now <= last_seen(settings) {
        return Ok(());
    }
    files::write(&settings.last_seen(), format!("{}\n", now.as_secs()).as_bytes())
}

/// This machine's clock, since 1970.
pub(crate) fn here() -> Duration {
    // a clock before 1970 is as far away as it can be
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Compares the clock with the boot server's.
pub(crate) fn probe(there: ServerTime, mode: Mode) -> Probe {
    let off = here().abs_diff(there.unix());
    match mode {
        _ if off <= CLOSE => Probe::True,
        Mode::Systemd => Probe::False,
        Mode::Process => Probe::Waiting(format!(
            "this machine's clock is {} s away from the boot server's: set it",
            off.as_secs()
        )),
    }
}

/// Sets the clock to the boot server's, and the one that runs while the machine is off.
pub(crate) async fn act(there: ServerTime, machine: &MachineSettings) -> Result<(), Fault> {
    let unix = there.unix();
    let time = rustix::time::Timespec {
        tv_sec: unix.as_secs() as i64,
        tv_nsec: i64::from(unix.subsec_nanos()),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).map_err(|error| {
        Fault::new(
            codes::CLOCK,
            Kind::Denied,
            format!("cannot set the clock: {error}"),
            "run NTP on this machine, or give firstboot CAP_SYS_TIME",
        )
    })?;
    tracing::info!(unix = unix.as_secs(), "the clock was set to the boot server's");
    // a convenience: at the next boot the clock is nearer
    let args = ["--systohc", "--utc"];
    if let Err(fault) = command::run(&machine.tool("hwclock"), &args, HARDWARE).await {
        tracing::debug!(%fault, "the hardware clock was not set");
    }
    Ok(())
}
