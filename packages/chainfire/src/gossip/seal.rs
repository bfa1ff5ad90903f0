//! Packets that only their receiver can read, and that nobody but their sender can have made.
//!
//! ```text
//! version 1 │ sender 8 │ session 8 │ counter 8 │ ChaCha20-Poly1305 of the message │ tag 16
//! ```
//!
//! The header and the receiver's id are authenticated with the message. The key is HKDF-SHA256 of
//! the sender's secret with the receiver's id, so no two pairs share one, and the counter is the
//! nonce, which never repeats in the life of a secret. A receiver takes each counter once, and none
//! from before it got the key (RFC 5869, RFC 8439; the window is that of RFC 4303, 128 wide).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};

/// The largest datagram: it fits IPv6's least MTU of 1280 bytes unfragmented.
pub(super) const PACKET_MAX: usize = 1232;
/// What sealing adds.
const OVERHEAD: usize = HEADER + 16;
/// The largest message.
pub(super) const MESSAGE_MAX: usize = PACKET_MAX - OVERHEAD;
const HEADER: usize = 1 + 8 + 8 + 8;
const VERSION: u8 = 1;

/// Bytes of a key.
pub(super) const KEY: usize = 32;

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too short or too long.
    Size,
    /// Of another version, or of another protocol.
    Version,
    /// From nobody whose key is known.
    Sender,
    /// From another life of a known sender: greet it anew.
    Session,
    /// Not made with the key.
    Forged,
    /// Seen before, or older than all that is remembered.
    Replayed,
    /// Authentic, and no message.
    Malformed,
}

/// Why a packet was refused, and of whom it claims to be.
pub(super) type Refusal = (Refused, Option<u64>);

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY
    }
}

/// Seals what this process sends.
pub(super) struct Sealer {
    me: u64,
    session: u64,
    secret: Prk,
    counter: AtomicU64,
    keys: Mutex<HashMap<u64, LessSafeKey>>,
}

/// What a receiver needs to open packets from a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) session: u64,
    pub(super) key: [u8; KEY],
    /// The last counter that was used: packets up to it are refused.
    pub(super) counter: u64,
}

/// There is no randomness, or the counter is at its end.
#[derive(Debug, thiserror::Error)]
#[error("a packet cannot be sealed")]
pub(super) struct Unsealable;

impl Sealer {
    /// With a secret of its own.
    pub(super) fn new(me: u64) -> Result<Sealer, Unsealable> {
        let random = SystemRandom::new();
        let (mut secret, mut session) = ([0; KEY], [0; 8]);
        random.fill(&mut secret).map_err(|_| Unsealable)?;
        random.fill(&mut session).map_err(|_| Unsealable)?;
        Ok(Sealer {
            me,
            session: u64::from_be_bytes(session),
            secret: Salt::new(HKDF_SHA256, b"chainfire gossip 1").extract(&secret),
            counter: AtomicU64::new(0),
            keys: Mutex::default(),
        })
    }

    /// What this receiver needs.
    pub(super) fn give(&self, receiver: u64) -> Result<Given, Unsealable> {
        let counter = self.counter.load(Ordering::SeqCst);
        Ok(Given { session: self.session, key: self.key(receiver)?, counter })
    }

    fn key(&self, receiver: u64) -> Result<[u8; KEY], Unsealable> {
        let mut key = [0; KEY];
        let receiver = receiver.to_be_bytes();
        let info = [&receiver[..]];
        let made = self.secret.expand(&info, KeyLength).map_err(|_| Unsealable)?;
        made.fill(&mut key).map_err(|_| Unsealable)?;
        Ok(key)
    }

    /// A packet for this receiver.
    pub(super) fn seal(&self, receiver: u64, message: &[u8]) -> Result<Vec<u8>, Unsealable> {
        if message.len() > MESSAGE_MAX {
            return Err(Unsealable);
        }
        // 2^64 packets take longer than any process lives
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let mut packet = Vec::with_capacity(OVERHEAD + message.len());
        packet.push(VERSION);
        packet.extend_from_slice(&self.me.to_be_bytes());
        packet.extend_from_slice(&self.session.to_be_bytes());
        packet.extend_from_slice(&counter.to_be_bytes());
        let aad = Aad::from(bound(&packet, receiver));
        packet.extend_from_slice(message);
        let mut keys = self.keys.lock();
        let key = match keys.entry(receiver) {
            Entry::Occupied(key) => key.into_mut(),
            Entry::Vacant(place) => place.insert(opener(&self.key(receiver)?).ok_or(Unsealable)?),
        };
        let (_, body) = packet.split_at_mut(HEADER);
        let tag = key.seal_in_place_separate_tag(nonce(counter), aad, body);
        packet.extend_from_slice(tag.map_err(|_| Unsealable)?.as_ref());
        Ok(packet)
    }

    /// Forgets the keys of all receivers but these.
    pub(super) fn keep(&self, wanted: impl Fn(u64) -> bool) {
        self.keys.lock().retain(|receiver, _| wanted(*receiver));
    }
}

fn opener(key: &[u8; KEY]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What is authenticated beside the message.
fn bound(header: &[u8], receiver: u64) -> [u8; HEADER + 8] {
    let mut bound = [0; HEADER + 8];
    bound[..HEADER].copy_from_slice(&header[..HEADER]);
    bound[HEADER..].copy_from_slice(&receiver.to_be_bytes());
    bound
}

/// Opens what one sender sends to this process.
struct Opener {
    session: u64,
    key: LessSafeKey,
    window: Window,
}

/// Opens packets from all senders whose key is known.
pub(super) struct Openers {
    me: u64,
    known: HashMap<u64, Opener>,
}

impl Openers {
    pub(super) fn new(me: u64) -> Openers {
        Openers { me, known: HashMap::new() }
    }

    /// Takes what a sender gave. The same again changes nothing: its window must not go back.
    pub(super) fn learn(&mut self, sender: u64, given: &Given) -> bool {
        if self.session(sender) == Some(given.session) {
            return false;
        }
        let Some(key) = opener(&given.key) else { return false };
        let window = Window::after(given.counter);
        self.known.insert(sender, Opener { session: given.session, key, window });
        true
    }

    /// The session of a sender that is known.
    pub(super) fn session(&self, sender: u64) -> Option<u64> {
        self.known.get(&sender).map(|opener| opener.session)
    }

    /// Forgets all senders but these.
    pub(super) fn keep(&mut self, wanted: impl Fn(u64) -> bool) {
        self.known.retain(|sender, _| wanted(*sender));
    }

    /// The sender and the message of a packet. Also says of whom a refused packet claims to be,
    /// which is not to be believed.
    pub(super) fn open<'p>(&mut self, packet: &'p mut [u8]) -> Result<(u64, &'p [u8]), Refusal> {
        if !(OVERHEAD..=PACKET_MAX).contains(&packet.len()) {
            return Err((Refused::Size, None));
        }
        let (header, body) = packet.split_at_mut(HEADER);
        if header[0] != VERSION {
            return Err((Refused::Version, None));
        }
        let sender = number(header, 1);
        let claimed = Some(sender);
        let opener = self.known.get_mut(&sender).ok_or((Refused::Sender, claimed))?;
        if number(header, 9) != opener.session {
            return Err((Refused::Session, claimed));
        }
        let counter = number(header, 17);
        if !opener.window.is_new(counter) {
            return Err((Refused::Replayed, claimed));
        }
        let aad = Aad::from(bound(header, self.me));
        let message = opener
            .key
            .open_in_place(nonce(counter), aad, body)
            .map_err(|_| (Refused::Forged, claimed))?;
        // only what is authentic moves the window
        opener.window.take(counter);
        Ok((sender, message))
    }
}

/// Eight bytes of a header that is long enough.
fn number(header: &[u8], at: usize) -> u64 {
    header.iter().skip(at).take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Which counters were seen: all up to `newest - 128`, and those whose bit is set.
struct Window {
    newest: u64,
    seen: u128,
}

impl Window {
    fn after(counter: u64) -> Window {
        Window { newest: counter, seen: u128::MAX }
    }

    fn is_new(&self, counter: u64) -> bool {
        match self.newest.checked_sub(counter) {
            None => true,
            Some(age) => age < 128 && self.seen >> age & 1 == 0,
        }
    }

    fn take(&mut self, counter: u64) {
        match self.newest.checked_sub(counter) {
            None => {
                let steps = counter - self.newest;
                self.seen = if steps < 128 { self.seen << steps | 1 } else { 1 };
                self.newest = counter;
            }
            Some(age) if age < 128 => self.seen |= 1 << age,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sender 1 and receiver 2 that know each other.
    fn pair() -> (Sealer, Openers) {
        let sealer = Sealer::new(1).unwrap();
        let mut openers = Openers::new(2);
        assert!(openers.learn(1, &sealer.give(2).unwrap()));
        (sealer, openers)
    }

    fn opened(openers: &mut Openers, packet: &[u8]) -> Result<(u64, Vec<u8>), Refused> {
        let mut packet = packet.to_vec();
        let opened = openers.open(&mut packet);
        opened.map(|(sender, message)| (sender, message.to_vec())).map_err(|(why, _)| why)
    }

    #[test]
    fn a_packet_is_opened_once_by_its_receiver_alone() {
        let (sealer, mut openers) = pair();
        let packet = sealer.seal(2, b"hello").unwrap();
        assert!(!packet.windows(5).any(|part| part == b"hello"), "the message is in the clear");
        assert_eq!(opened(&mut openers, &packet), Ok((1, b"hello".to_vec())));
        assert_eq!(opened(&mut openers, &packet), Err(Refused::Replayed));
        // another receiver has another key, and even with this one it would not be his
        let mut third = Openers::new(3);
        assert_eq!(opened(&mut third, &packet), Err(Refused::Sender));
        third.learn(1, &sealer.give(3).unwrap());
        let packet = sealer.seal(2, b"hello").unwrap();
        assert_eq!(opened(&mut third, &packet), Err(Refused::Forged));
        let mut thief = Openers::new(3);
        thief.learn(1, &Given { counter: 0, ..sealer.give(2).unwrap() });
        assert_eq!(opened(&mut thief, &packet), Err(Refused::Forged));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_refused() {
        let (sealer, mut openers) = pair();
        let packet = sealer.seal(2, b"0123456789").unwrap();
        for at in 0..packet.len() {
            for bit in 0..8 {
                let mut changed = packet.clone();
                changed[at] ^= 1 << bit;
                assert!(opened(&mut openers, &changed).is_err(), "byte {at}, bit {bit}");
            }
            assert!(opened(&mut openers, &packet[..at]).is_err(), "cut at {at}");
        }
        let mut longer = packet.clone();
        longer.push(0);
        assert!(opened(&mut openers, &longer).is_err());
        assert_eq!(opened(&mut openers, &vec![1; PACKET_MAX + 1]), Err(Refused::Size));
        // nothing of that has moved the window
        assert!(opened(&mut openers, &packet).is_ok());
    }

    #[test]
    fn what_was_sent_before_the_key_was_given_is_refused() {
        let sealer = Sealer::new(1).unwrap();
        let early = sealer.seal(2, b"early").unwrap();
        let mut openers = Openers::new(2);
        openers.learn(1, &sealer.give(2).unwrap());
        assert_eq!(opened(&mut openers, &early), Err(Refused::Replayed));
        let late = sealer.seal(2, b"late").unwrap();
        assert!(opened(&mut openers, &late).is_ok());
        // the same key again must not let the packet in again
        assert!(!openers.learn(1, &Given { counter: 0, ..sealer.give(2).unwrap() }));
        assert_eq!(opened(&mut openers, &late), Err(Refused::Replayed));
    }

    #[test]
    fn another_life_of_the_sender_is_told_apart() {
        let (_, mut openers) = pair();
        let again = Sealer::new(1).unwrap();
        let packet = again.seal(2, b"again").unwrap();
        assert_eq!(opened(&mut openers, &packet), Err(Refused::Session));
        assert!(openers.learn(1, &Given { counter: 0, ..again.give(2).unwrap() }));
        assert!(opened(&mut openers, &packet).is_ok());
        openers.keep(|sender| sender != 1);
        assert_eq!(opened(&mut openers, &packet), Err(Refused::Sender));
    }

    #[test]
    fn the_window_takes_each_counter_once_in_any_order() {
        let mut window = Window::after(5);
        assert!(!window.is_new(5) && !window.is_new(0));
        let order = [6, 9, 7, 8, 300, 299, 173, 172, 1000];
        let fresh = [true, true, true, true, true, true, true, false, true];
        for (counter, fresh) in order.into_iter().zip(fresh) {
            assert_eq!(window.is_new(counter), fresh, "{counter}");
            window.take(counter);
            assert!(!window.is_new(counter), "{counter}");
        }
        window.take(u64::MAX);
        assert!(!window.is_new(u64::MAX) && window.is_new(u64::MAX - 127));
    }
}
