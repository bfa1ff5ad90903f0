//! Step clock: certificates mean nothing to a machine that does not know the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fault::{Fault, Kind};
use rpc::ServerTime;
use steps::Probe;

use crate::disk::run_command;
use crate::{MachineSettings, Mode, codes};

/// Certificates are dated back by five minutes, so a clock within two is right enough.
const CLOSE: Duration = Duration::from_secs(120);
/// Setting the hardware clock waits for the turn of a second.
const HARDWARE: Duration = Duration::from_secs(5);

/// Compares the clock with the boot server's.
pub(crate) fn probe(there: ServerTime, mode: Mode) -> Probe {
    // a clock before 1970 is as far away as it can be
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let off = here.abs_diff(there.unix());
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
    if let Err(fault) = run_command(&machine.tool("hwclock"), &args, HARDWARE).await {
        tracing::debug!(%fault, "the hardware clock was not set");
    }
    Ok(())
}
