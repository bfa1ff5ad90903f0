//! Step clock: certificates mean nothing to a machine that does not know the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fault::{Fault, Kind};
use steps::Probe;

use crate::bootserver::BootServer;
use crate::{Mode, codes};

/// Certificates are dated back by five minutes, so a clock within two is right enough.
const CLOSE: Duration = Duration::from_secs(120);

/// Compares the clock with the boot server's.
///
/// The connection cannot check dates on a wrong clock; a boot server whose certificate seems not
/// yet valid or expired is therefore reported as what it most likely is: a wrong clock here.
pub(crate) async fn probe(server: &BootServer, mode: Mode) -> Result<Probe, Fault> {
    let there = server.time().await?;
    let off = distance(there)?;
    if off <= CLOSE {
        return Ok(Probe::True);
    }
    match mode {
        Mode::Systemd => Ok(Probe::False),
        Mode::Process => Ok(Probe::Waiting(format!(
            "this machine's clock is {} s away from the boot server's: set it",
            off.as_secs()
        ))),
    }
}

/// Sets the clock to the boot server's.
pub(crate) async fn act(server: &BootServer) -> Result<(), Fault> {
    let there = server.time().await?;
    let time = rustix::time::Timespec {
        tv_sec: there.as_secs() as i64,
        tv_nsec: i64::from(there.subsec_nanos()),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).map_err(|error| {
        Fault::new(
            codes::CLOCK,
            Kind::Denied,
            format!("cannot set the clock: {error}"),
            "run NTP on this machine, or give firstboot CAP_SYS_TIME",
        )
    })
}

fn distance(there: Duration) -> Result<Duration, Fault> {
    let here = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| {
        Fault::new(
            codes::CLOCK,
            Kind::Unavailable,
            "this machine's clock is before 1970",
            "set the clock, or run NTP",
        )
    })?;
    Ok(here.abs_diff(there))
}
