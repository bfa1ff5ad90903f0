//! The running boot server: HTTPS for nodes and operators, the ops listener, and the upkeep of
//! certificates and reports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fault::Fault;
use prometheus::Registry;
use rpc::{ClientAuth, Tls};
use telemetry::{Gate, Health};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::boot::serve;
use crate::desk::{Desk, Ports, blocking};
use crate::dhcp::Service;
use crate::routes::routes;
use crate::settings::Settings;

const SAVE_EVERY: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// A boot server that listens.
pub struct Running {
    /// Where nodes and operators call.
    pub address: SocketAddr,
    /// Where machines ask what to boot, if they may.
    pub boot: Option<SocketAddr>,
    /// Health and metrics.
    pub ops: SocketAddr,
    tasks: Vec<JoinHandle<Result<(), Fault>>>,
    stop: CancellationToken,
}

/// Opens the state folder and listens; what it returns answers already.
pub async fn start(
    settings: Settings,
    inventory: inventory::Inventory,
    stop: CancellationToken,
) -> Result<Running, Fault> {
    let health = Health::new();
    let (state, listener) = (health.gate("state"), health.gate("listener"));
    let registry = Registry::new();
    telemetry::process_metrics(&registry);
    let dhcp = Service::new(&settings, &inventory)?.map(|service| (service, health.gate("dhcp")));
    let listen = settings.listen;
    let ops_listen = settings.ops.listen;
    let boot_listen = settings.boot.listen;
    let desk = Arc::new(blocking(move || Desk::open(settings, inventory)).await?);
    state.open();
    let tls = Tls::load(&desk.folder().server_files())?;
    let server = rpc::Server::new("bootserver").tls(tls, ClientAuth::Optional).bind(listen).await?;
    server.register_metrics(&registry);
    let (ops, ops_task) =
        telemetry::ops(ops_listen, health, registry.clone(), stop.clone()).await?;
    let address = server.local_addr();
    let boot = match boot_listen {
        Some(listen) => Some(rpc::Server::new("boot").plaintext().bind(listen).await?),
        None => None,
    };
    let boot_address = boot.as_ref().map(rpc::Server::local_addr);
    desk.set_ports(Ports { api: address.port(), boot: boot_address.map(|a| a.port()) });
    let serve = server.serve_http(routes(Arc::clone(&desk), &registry), stop.clone());
    listener.open();
    tracing::info!(cluster = desk.folder().cluster(), id = desk.folder().cluster_id(), "serving");
    let mut tasks = vec![
        tokio::spawn(serve),
        tokio::spawn(async move {
            let _ = ops_task.await;
            Ok(())
        }),
        tokio::spawn(upkeep(Arc::clone(&desk), state, stop.clone())),
    ];
    if let Some(boot) = boot {
        boot.register_metrics(&registry);
        tasks.push(tokio::spawn(boot.serve_http(serve::routes(desk), stop.clone())));
    }
    if let Some((service, gate)) = dhcp {
        let stop = stop.clone();
        tasks.push(tokio::spawn(async move {
            let result = service.run(stop.clone(), gate).await;
            // at its end the others end too
            stop.cancel();
            result
        }));
    }
    Ok(Running { address, boot: boot_address, ops, tasks, stop })
}

impl Running {
    /// Waits until everything has stopped, which one part's failure brings about.
    pub async fn wait(self) -> Result<(), Fault> {
        let mut result = Ok(());
        // whichever ends first, not in their order: one that fails must stop the others
        let mut tasks: JoinSet<_> = self.tasks.into_iter().collect();
        while let Some(task) = tasks.join_next().await {
            match task.and_then(|ended| ended) {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => {
                    self.stop.cancel();
                    result = result.and(Err(fault));
                }
                Err(error) => {
                    self.stop.cancel();
                    tracing::error!(%error, "a task of the boot server ended badly");
                }
            }
        }
        result
    }
}

/// Saves reports and renews certificates until the stop; the last reports are saved too.
async fn upkeep(desk: Arc<Desk>, state: Gate, stop: CancellationToken) -> Result<(), Fault> {
    let mut renew = tokio::time::interval(RENEW_EVERY);
    let mut save = tokio::time::interval(SAVE_EVERY);
    save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = save.tick() => {
                if desk.has_unsaved_reports() {
                    save_reports(&desk, &state).await;
                }
            }
            _ = renew.tick() => {
                let desk = Arc::clone(&desk);
                match blocking(move || desk.renew_own()).await {
                    Ok(true) => tracing::info!("own certificates renewed"),
                    Ok(false) => {}
                    Err(fault) => tracing::error!(%fault, "own certificates cannot be renewed"),
                }
            }
            () = stop.cancelled() => {
                save_reports(&desk, &state).await;
                return Ok(());
            }
        }
    }
}

async fn save_reports(desk: &Arc<Desk>, state: &Gate) {
    let desk = Arc::clone(desk);
    match blocking(move || desk.save_reports()).await {
        Ok(()) => state.open(),
        Err(fault) => {
            tracing::error!(%fault, "reports cannot be saved");
            state.close(fault.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fault::Kind;

    use super::*;
    use crate::codes;

    #[tokio::test]
    async fn one_parts_failure_ends_those_that_were_started_before() {
        let stop = CancellationToken::new();
        let goes_on = stop.clone();
        let tasks = vec![
            tokio::spawn(async move {
                goes_on.cancelled().await;
                Ok(())
            }),
            tokio::spawn(async {
                Err(Fault::new(codes::INTERNAL, Kind::Internal, "it fails", ""))
            }),
        ];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = Running { address: nowhere, boot: None, ops: nowhere, tasks, stop };
        let ended = tokio::time::timeout(Duration::from_secs(60), running.wait()).await;
        assert_eq!(ended.expect("it ends").unwrap_err().what, "it fails");
    }
}
