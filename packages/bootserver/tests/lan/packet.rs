//! A DHCP client as small as can be: RFC 2131's packet, the options that firmware sends, and the
//! answers taken apart.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// The class of the vendor: `PXEClient`, `HTTPClient`.
pub(crate) const OPTION_VENDOR: u8 = 60;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A BIOS card's ROM.
    Bios,
    /// UEFI's PXE, with the architecture it names.
    Uefi(u16),
    /// UEFI's HTTP boot.
    UefiHttp,
    /// iPXE.
    Ipxe,
    /// A running system, which boots nothing.
    System,
}

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    mac: [u8; 6],
    kind: Kind,
    /// What the client calls itself.
    pub(crate) client_id: Option<Vec<u8>>,
}

impl Ask {
    /// Of this card and kind, without a client id.
    pub(crate) fn new(mac: &str, kind: Kind) -> Ask {
        Ask { mac: inventory::Mac::parse(mac).unwrap().0, kind, client_id: None }
    }

    fn packet(&self, xid: u32, message: u8, own: Ipv4Addr, more: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![1, 1, 6, 0];
        packet.extend(xid.to_be_bytes());
        // no seconds; broadcast the answer, since the address is nobody's yet
        packet.extend([0, 0, 0x80, 0]);
        packet.extend(own.octets());
        packet.extend([0; 12]);
        packet.extend(self.mac);
        packet.extend([0; 10 + 64 + 128]);
        packet.extend(MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            packet.extend([code, u8::try_from(value.len()).unwrap()]);
            packet.extend(value);
        };
        option(53, &[message]);
        option(57, &1472u16.to_be_bytes());
        option(55, &[1, 3, 6, 12, 15, 43, 54, 60, 66, 67, 175]);
        if let Some(id) = &self.client_id {
            option(61, id);
        }
        let (arch, class) = match self.kind {
            Kind::Bios => (Some(0), "PXEClient:Arch:00000:UNDI:002001".to_owned()),
            Kind::Ipxe => (Some(0), "PXEClient:Arch:00000:UNDI:002001".to_owned()),
            Kind::Uefi(arch) => (Some(arch), format!("PXEClient:Arch:{arch:05}:UNDI:003001")),
            Kind::UefiHttp => (Some(16), "HTTPClient:Arch:00016:UNDI:003001".to_owned()),
            Kind::System => (None, "systemd".to_owned()),
        };
        option(OPTION_VENDOR, class.as_bytes());
        if let Some(arch) = arch {
            option(93, &u16::to_be_bytes(arch));
            option(94, &[1, 2, 1]);
            let mut uuid = vec![0];
            uuid.extend([7; 16]);
            option(97, &uuid);
        }
        if self.kind == Kind::Ipxe {
            option(77, b"iPXE");
        }
        for (code, value) in more {
            option(*code, value);
        }
        packet.push(255);
        packet.resize(packet.len().max(300), 0);
        packet
    }
}

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    xid: u32,
    message: u8,
    /// The address that is offered; a proxy offers none.
    pub(crate) address: Ipv4Addr,
    /// Where the file is.
    pub(crate) next_server: Ipv4Addr,
    /// What to load; empty for nothing.
    pub(crate) file: String,
    /// Who answers.
    pub(crate) server: Ipv4Addr,
    /// All options by number.
    pub(crate) options: BTreeMap<u8, Vec<u8>>,
}

impl Answer {
    fn read(packet: &[u8]) -> Option<Answer> {
        let four = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
        let address = |at: usize| Some(Ipv4Addr::from(four(at)?));
        if packet.first() != Some(&2) || four(236)? != MAGIC {
            return None;
        }
        let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut rest = packet.get(240..)?;
        while let [code, tail @ ..] = rest {
            match code {
                0 => rest = tail,
                255 => break,
                _ => {
                    let length = usize::from(*tail.first()?);
                    let value = tail.get(1..=length)?;
                    options.entry(*code).or_default().extend(value);
                    rest = tail.get(length + 1..)?;
                }
            }
        }
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let field = text(packet.get(108..236)?);
        let file = if field.is_empty() {
            options.get(&67).map(|bytes| text(bytes)).unwrap_or_default()
        } else {
            field
        };
        let server: [u8; 4] = options.get(&54)?.as_slice().try_into().ok()?;
        Some(Answer {
            xid: u32::from_be_bytes(four(4)?),
            message: *options.get(&53)?.first()?,
            address: address(16)?,
            next_server: address(20)?,
            file,
            server: server.into(),
            options,
        })
    }
}

/// The port of DHCP clients.
pub(crate) struct Client {
    socket: UdpSocket,
    xid: Cell<u32>,
}

impl Client {
    pub(crate) fn open() -> Client {
        let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Client { socket, xid: Cell::new(std::process::id() << 8) }
    }

    fn next_xid(&self) -> u32 {
        self.xid.set(self.xid.get() + 1);
        self.xid.get()
    }

    fn send(&self, packet: &[u8], to: (Ipv4Addr, u16)) {
        // while a bridge learns, a send may be refused; the caller sends again
        let _ = self.socket.send_to(packet, to);
    }

    fn receive(&self) -> Option<Answer> {
        let mut packet = [0; 2048];
        let length = self.socket.recv(&mut packet).ok()?;
        Answer::read(&packet[..length])
    }

    /// The offers of up to so many servers; asks again each second, for so many seconds.
    pub(crate) fn offers(&self, ask: &Ask, servers: usize, seconds: u32) -> Vec<Answer> {
        let xid = self.next_xid();
        let packet = ask.packet(xid, DISCOVER, Ipv4Addr::UNSPECIFIED, &[]);
        let mut offers: BTreeMap<Ipv4Addr, Answer> = BTreeMap::new();
        for _ in 0..seconds {
            self.send(&packet, (Ipv4Addr::BROADCAST, 67));
            let again = Instant::now() + Duration::from_secs(1);
            while Instant::now() < again && offers.len() < servers {
                if let Some(answer) = self.receive().filter(|a| a.xid == xid && a.message == 2) {
                    offers.entry(answer.server).or_insert(answer);
                }
            }
            if offers.len() >= servers {
                break;
            }
        }
        offers.into_values().collect()
    }

    /// The offers to `ask` until `server` has answered `later`, which was asked after it.
    pub(crate) fn offers_before(&self, ask: &Ask, later: &Ask, server: Ipv4Addr) -> Vec<Answer> {
        let (first, second) = (self.next_xid(), self.next_xid());
        let mut offers: BTreeMap<Ipv4Addr, Answer> = BTreeMap::new();
        let (mut answered, deadline) = (false, Instant::now() + Duration::from_secs(20));
        while !answered || offers.is_empty() {
            assert!(Instant::now() < deadline, "no answers");
            self.send(
                &ask.packet(first, DISCOVER, Ipv4Addr::UNSPECIFIED, &[]),
                (Ipv4Addr::BROADCAST, 67),
            );
            self.send(
                &later.packet(second, DISCOVER, Ipv4Addr::UNSPECIFIED, &[]),
                (Ipv4Addr::BROADCAST, 67),
            );
            let again = Instant::now() + Duration::from_secs(4);
            while Instant::now() < again && (!answered || offers.is_empty()) {
                let Some(answer) = self.receive() else { continue };
                answered |= answer.xid == second && answer.server == server;
                if answer.xid == first {
                    offers.insert(answer.server, answer);
                }
            }
        }
        offers.into_values().collect()
    }

    fn until_answered(&self, packet: &[u8], xid: u32, to: (Ipv4Addr, u16)) -> Answer {
        for _ in 0..20 {
            self.send(packet, to);
            let again = Instant::now() + Duration::from_secs(1);
            while Instant::now() < again {
                if let Some(answer) = self.receive().filter(|a| a.xid == xid) {
                    assert_eq!(answer.message, 5, "{answer:?}");
                    return answer;
                }
            }
        }
        panic!("no answer from {to:?}");
    }

    /// Takes an offer and returns the server's acknowledgement.
    pub(crate) fn request(&self, ask: &Ask, offer: &Answer) -> Answer {
        let xid = self.next_xid();
        let more: [(u8, &[u8]); 2] = [(50, &offer.address.octets()), (54, &offer.server.octets())];
        let packet = ask.packet(xid, REQUEST, Ipv4Addr::UNSPECIFIED, &more);
        self.until_answered(&packet, xid, (Ipv4Addr::BROADCAST, 67))
    }

    /// Asks port 4011 of the boot server.
    pub(crate) fn ask_boot_server(&self, ask: &Ask, own: Ipv4Addr, server: Ipv4Addr) -> Answer {
        let xid = self.next_xid();
        let packet = ask.packet(xid, REQUEST, own, &[]);
        self.until_answered(&packet, xid, (server, 4011))
    }
}
