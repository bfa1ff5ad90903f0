//! What gossip calls a member, and its bytes on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};

/// One life of a member's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The member's id.
    pub(super) member: u64,
    /// Grows with every start of its process.
    pub(super) run: u64,
    /// Grows when it comes back after it was taken for down.
    pub(super) comeback: u32,
    /// Where it gossips.
    pub(super) address: SocketAddr,
}

impl foca::Identity for Identity {
    type Addr = u64;

    fn renew(&self) -> Option<Identity> {
        Some(Identity { comeback: self.comeback.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> u64 {
        self.member
    }

    fn win_addr_conflict(&self, other: &Identity) -> bool {
        (self.run, self.comeback, self.address) > (other.run, other.comeback, other.address)
    }
}

/// Bytes that are no message of this version.
#[derive(Debug, thiserror::Error)]
#[error("malformed gossip message")]
pub(super) struct Malformed;

/// Fixed-size numbers in network order; nothing is allocated for what comes in.
pub(super) struct Wire;

const V4: u8 = 4;
const V6: u8 = 6;

fn put_identity(identity: &Identity, buf: &mut impl BufMut) -> Result<(), Malformed> {
    let address = match identity.address.ip() {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 16,
    };
    if buf.remaining_mut() < 8 + 8 + 4 + 1 + address + 2 {
        return Err(Malformed);
    }
    buf.put_u64(identity.member);
    buf.put_u64(identity.run);
    buf.put_u32(identity.comeback);
    match identity.address.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(V4);
            buf.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(V6);
            buf.put_slice(&ip.octets());
        }
    }
    buf.put_u16(identity.address.port());
    Ok(())
}

fn get_identity(buf: &mut impl Buf) -> Result<Identity, Malformed> {
    let (member, run) = (u64_of(buf)?, u64_of(buf)?);
    let comeback = buf.try_get_u32().map_err(|_| Malformed)?;
    let ip = match u8_of(buf)? {
        V4 => {
            let mut octets = [0; 4];
            buf.try_copy_to_slice(&mut octets).map_err(|_| Malformed)?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        V6 => {
            let mut octets = [0; 16];
            buf.try_copy_to_slice(&mut octets).map_err(|_| Malformed)?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return Err(Malformed),
    };
    let port = u16_of(buf)?;
    Ok(Identity { member, run, comeback, address: SocketAddr::new(ip, port) })
}

fn u8_of(buf: &mut impl Buf) -> Result<u8, Malformed> {
    buf.try_get_u8().map_err(|_| Malformed)
}

fn u16_of(buf: &mut impl Buf) -> Result<u16, Malformed> {
    buf.try_get_u16().map_err(|_| Malformed)
}

fn u64_of(buf: &mut impl Buf) -> Result<u64, Malformed> {
    buf.try_get_u64().map_err(|_| Malformed)
}

fn room(buf: &impl BufMut, bytes: usize) -> Result<(), Malformed> {
    if buf.remaining_mut() < bytes { Err(Malformed) } else { Ok(()) }
}

impl Codec<Identity> for Wire {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        put_identity(&header.src, &mut buf)?;
        room(&buf, 2)?;
        buf.put_u16(header.src_incarnation);
        put_identity(&header.dst, &mut buf)?;
        room(&buf, 2)?;
        let (kind, number, other) = match &header.message {
            Message::Ping(number) => (1, *number, None),
            Message::Ack(number) => (2, *number, None),
            Message::PingReq { target, probe_number } => (3, *probe_number, Some(target)),
            Message::IndirectPing { origin, probe_number } => (4, *probe_number, Some(origin)),
            Message::IndirectAck { target, probe_number } => (5, *probe_number, Some(target)),
            Message::ForwardedAck { origin, probe_number } => (6, *probe_number, Some(origin)),
            Message::Announce => (7, 0, None),
            Message::Feed => (8, 0, None),
            Message::Gossip => (9, 0, None),
            Message::Broadcast => (10, 0, None),
            Message::TurnUndead => (11, 0, None),
        };
        buf.put_u8(kind);
        buf.put_u8(number);
        match other {
            Some(identity) => put_identity(identity, &mut buf),
            None => Ok(()),
        }
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Malformed> {
        let buf = &mut buf;
        let src = get_identity(buf)?;
        let src_incarnation = u16_of(buf)?;
        let dst = get_identity(buf)?;
        let (kind, probe_number) = (u8_of(buf)?, u8_of(buf)?);
        let message = match kind {
            1 => Message::Ping(probe_number),
            2 => Message::Ack(probe_number),
            3 => Message::PingReq { target: get_identity(buf)?, probe_number },
            4 => Message::IndirectPing { origin: get_identity(buf)?, probe_number },
            5 => Message::IndirectAck { target: get_identity(buf)?, probe_number },
            6 => Message::ForwardedAck { origin: get_identity(buf)?, probe_number },
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            _ => return Err(Malformed),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        // the buffer must stay clean where there is no room for all of it
        room(&buf, 8 + 8 + 4 + 1 + 16 + 2 + 3)?;
        put_identity(member.id(), &mut buf)?;
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 1,
            State::Suspect => 2,
            State::Down => 3,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Malformed> {
        let id = get_identity(&mut buf)?;
        let incarnation = u16_of(&mut buf)?;
        let state = match u8_of(&mut buf)? {
            1 => State::Alive,
            2 => State::Suspect,
            3 => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn identity(member: u64, address: &str) -> Identity {
        Identity { member, run: 7, comeback: 3, address: address.parse().unwrap() }
    }

    #[test]
    fn messages_survive_the_wire() {
        let (a, b) = (identity(1, "10.0.0.1:2381"), identity(u64::MAX, "[fd00::1]:1"));
        let messages = [
            Message::Ping(1),
            Message::Ack(255),
            Message::PingReq { target: a.clone(), probe_number: 9 },
            Message::IndirectPing { origin: b.clone(), probe_number: 9 },
            Message::IndirectAck { target: a.clone(), probe_number: 9 },
            Message::ForwardedAck { origin: b.clone(), probe_number: 9 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: a.clone(), src_incarnation: 4, dst: b.clone(), message };
            let mut bytes = Vec::new();
            Wire.encode_header(&header, &mut bytes).unwrap();
            let mut rest = &bytes[..];
            assert_eq!(Wire.decode_header(&mut rest).unwrap(), header);
            assert!(rest.is_empty());
            for short in 0..bytes.len() {
                assert!(Wire.decode_header(&bytes[..short]).is_err(), "{short} of {header:?}");
            }
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(b.clone(), 9, state);
            let mut bytes = Vec::new();
            Wire.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(Wire.decode_member(&bytes[..]).unwrap(), member);
            let mut small = [0; 20];
            assert!(Wire.encode_member(&member, &mut small[..]).is_err());
            assert_eq!(small, [0; 20]);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused() {
        for length in 0..120 {
            for fill in [0, 1, 4, 6, 255] {
                let bytes = vec![fill; length];
                let _ = Wire.decode_header(&bytes[..]);
                let _ = Wire.decode_member(&bytes[..]);
            }
        }
    }

    #[test]
    fn a_newer_run_wins_and_a_comeback_beats_its_own_past() {
        let old = identity(1, "10.0.0.1:2381");
        let back = old.renew().unwrap();
        let new = Identity { run: 8, comeback: 0, ..old.clone() };
        assert!(back.win_addr_conflict(&old) && !old.win_addr_conflict(&back));
        assert!(new.win_addr_conflict(&back) && !back.win_addr_conflict(&new));
        assert_eq!(old.addr(), new.addr());
    }
}
