//! Step identify: which node of the inventory is this machine, and what is it to do? The boot
//! server answers; the machine says what it sees of itself.

use bootserver::wire::{DiskSeen, Identified, Identify, IdentifyRequest, Order};
use fault::{Fault, Kind};
use inventory::Inventory;

use crate::bootserver::{BootServer, parse_inventory};
use crate::enroll::Enrolment;
use crate::{Mode, Settings, Target, codes, hardware, kernel};

/// What is known of this machine's place in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) node: String,
    pub(crate) cluster_id: String,
    pub(crate) inventory: Inventory,
    /// The inventory as the boot server sent it.
    pub(crate) sent: serde_json::Value,
    pub(crate) order: Order,
    pub(crate) reason: String,
    pub(crate) install_id: String,
    pub(crate) machine_id: String,
    pub(crate) images: String,
}

/// What the machine says of itself.
pub(crate) fn seen(settings: &Settings) -> Identify {
    if settings.mode == Mode::Process {
        return Identify { serial: None, macs: Vec::new(), process: true };
    }
    let machine = &settings.machine;
    let serial = std::fs::read_to_string(machine.path("/sys/class/dmi/id/product_serial"));
    let serial = serial.map(|text| text.trim().to_owned()).unwrap_or_default();
    let mut macs: Vec<String> = hardware::nics(machine).into_iter().map(|nic| nic.mac).collect();
    macs.sort();
    Identify { serial: (!serial.is_empty()).then_some(serial), macs, process: false }
}

/// Asks the boot server, and shows it what the machine is made of.
pub(crate) async fn ask(
    settings: &Settings,
    server: &BootServer,
    disks: Vec<DiskSeen>,
) -> Result<Known, Fault> {
    let hardware = hardware::seen(&settings.machine, disks);
    let rescue = settings.mode == Mode::Systemd && kernel::is_rescue(&settings.machine);
    let request = IdentifyRequest { identify: seen(settings), hardware, rescue };
    let Identified { node, cluster_id, inventory, order, reason, install_id, machine_id, .. } =
        server.identify(&request).await?;
    let sent = inventory;
    let inventory = parse_inventory(&sent)?;
    inventory.node(&node)?;
    if let Some(told) = &settings.node
        && *told != node
    {
        return Err(Fault::new(
            codes::UNKNOWN,
            Kind::Unavailable,
            format!("the settings say that this is {told}, the boot server that it is {node}"),
            "correct node in firstboot.toml, or the serial number and MACs in nodes/cluster.nix",
        ));
    }
    let images = images(settings);
    Ok(Known { node, cluster_id, inventory, sent, order, reason, install_id, machine_id, images })
}

/// What the boot server said when the node enrolled: enough to go on without it.
pub(crate) fn remembered(settings: &Settings, enrolment: &Enrolment) -> Result<Known, Fault> {
    Ok(Known {
        node: enrolment.node.clone(),
        cluster_id: enrolment.cluster_id.clone(),
        inventory: enrolment.inventory()?,
        sent: enrolment.inventory.clone(),
        order: Order::Run,
        reason: String::new(),
        install_id: enrolment.install_id.clone(),
        machine_id: enrolment.machine_id.clone(),
        images: images(settings),
    })
}

/// Whether nothing but the name is needed, and the settings give it.
pub(crate) fn told(settings: &Settings) -> Option<&str> {
    let machine = settings.mode == Mode::Systemd && settings.target != Target::None;
    settings.node.as_deref().filter(|_| !machine)
}

fn images(settings: &Settings) -> String {
    let url = settings.images_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    url.unwrap_or_else(|| kernel::images(&settings.machine))
}
