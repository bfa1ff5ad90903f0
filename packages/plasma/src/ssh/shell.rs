//! A command or a shell on a node: bytes both ways on one thread, the window's size kept, the
//! terminal as it was at the end.

use std::io::{ErrorKind, IsTerminal as _, Read as _, Write};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use fault::Fault;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::termios::{self, OptionalActions, Termios};
use ssh2::{BlockDirections, Channel, ErrorCode};

use super::session::{Link, Target, broken};

/// How often the window's size is looked at, and the longest that a closed channel stays unseen.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
const KEEPALIVE: Duration = Duration::from_secs(15);
const CHUNK: usize = 32 << 10;
/// libssh2 says by this that it would have to wait.
const WOULD_WAIT: ErrorCode = ErrorCode::Session(-37);
/// As other clients say that the command was ended by a signal, or never said how.
const NO_STATUS: u8 = 255;

/// Runs a command with this process's own input and output; its exit status.
pub(crate) fn run(link: &Link, target: &Target, command: &str) -> Result<u8, Fault> {
    let fail = |error: ssh2::Error| broken(target, "run a command on", error.message());
    let mut channel = link.session.channel_session().map_err(fail)?;
    channel.exec(command).map_err(fail)?;
    relay(link, target, channel, None)
}

/// Runs a command without input; its exit status and what it wrote.
pub(crate) fn capture(link: &Link, target: &Target, command: &str) -> Result<(i32, String), Fault> {
    let fail = |error: ssh2::Error| broken(target, "run a command on", error.message());
    let mut channel = link.session.channel_session().map_err(fail)?;
    channel.exec(command).map_err(fail)?;
    let mut text = String::new();
    let read = std::io::Read::by_ref(&mut channel).take(1 << 20).read_to_string(&mut text);
    read.map_err(|error| broken(target, "hear of", &error.to_string()))?;
    channel.close().and_then(|()| channel.wait_close()).map_err(fail)?;
    Ok((channel.exit_status().map_err(fail)?, text))
}

/// A shell of the user, on a terminal if this one is one.
pub(crate) fn shell(link: &Link, target: &Target) -> Result<u8, Fault> {
    let fail = |error: ssh2::Error| broken(target, "open a shell on", error.message());
    let mut channel = link.session.channel_session().map_err(fail)?;
    let mut window = None;
    if std::io::stdin().is_terminal() {
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        let size = size();
        channel.request_pty(&term, None, Some((size.0, size.1, 0, 0))).map_err(fail)?;
        window = Some(size);
    }
    channel.shell().map_err(fail)?;
    let _raw = window.and_then(|_| Raw::enter());
    relay(link, target, channel, window)
}

/// The terminal passes every key on, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Option<Raw> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows.
fn size() -> (u32, u32) {
    match termios::tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

fn relay(
    link: &Link,
    target: &Target,
    mut channel: Channel,
    mut window: Option<(u32, u32)>,
) -> Result<u8, Fault> {
    let fail = |error: ssh2::Error| broken(target, "speak with", error.message());
    let lost = |error: std::io::Error| broken(target, "speak with", &error.to_string());
    let session = &link.session;
    session.set_blocking(false);
    session.set_keepalive(true, u32::try_from(KEEPALIVE.as_secs()).unwrap_or(15));
    let mut input = Input::default();
    let mut kept_alive = Instant::now();
    let mut buffer = vec![0; CHUNK];
    loop {
        let Some(mut moved) = output(&mut channel, &mut buffer).map_err(lost)? else {
            // nobody reads what the command writes: it ends, as it would here
            return Ok(NO_STATUS);
        };
        moved |= input.send(&mut channel).map_err(lost)?;
        if channel.eof() {
            break;
        }
        if let Some(known) = &mut window
            && size() != *known
        {
            let now = size();
            // asked again at the next tick when it would have to wait
            if channel.request_pty_size(now.0, now.1, None, None).is_ok() {
                *known = now;
            }
        }
        if kept_alive.elapsed() >= KEEPALIVE {
            kept_alive = Instant::now();
            match session.keepalive_send() {
                Err(error) if error.code() != WOULD_WAIT => return Err(fail(error)),
                _ => {}
            }
        }
        if !moved {
            wait(link, &mut input);
        }
    }
    session.set_blocking(true);
    let _ = channel.close();
    channel.wait_close().map_err(fail)?;
    let was_killed = channel.exit_signal().is_ok_and(|signal| signal.exit_signal.is_some());
    let status = channel.exit_status().map_err(fail)?;
    Ok(if was_killed { NO_STATUS } else { u8::try_from(status).unwrap_or(NO_STATUS) })
}

/// What the node wrote goes out; whether there was anything, and nothing when nobody reads it.
fn output(channel: &mut Channel, buffer: &mut [u8]) -> std::io::Result<Option<bool>> {
    let mut any = false;
    for stream in [0, ssh2::EXTENDED_DATA_STDERR] {
        let count = match channel.stream(stream).read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let text = &buffer[..count];
        let written = match stream {
            _ if count == 0 => continue,
            0 => whole(&mut std::io::stdout().lock(), text),
            _ => whole(&mut std::io::stderr().lock(), text),
        };
        if written.is_err() {
            return Ok(None);
        }
        any = true;
    }
    Ok(Some(any))
}

fn whole(out: &mut impl Write, text: &[u8]) -> std::io::Result<()> {
    out.write_all(text)?;
    out.flush()
}

/// What was read here and has not been sent.
#[derive(Default)]
struct Input {
    pending: Vec<u8>,
    ready: bool,
    ended: bool,
    said: bool,
}

impl Input {
    fn send(&mut self, channel: &mut Channel) -> std::io::Result<bool> {
        if self.pending.is_empty() && self.ready {
            self.ready = false;
            let mut chunk = vec![0; CHUNK];
            match rustix::io::read(std::io::stdin(), &mut chunk) {
                Ok(0) | Err(_) => self.ended = true,
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
            }
        }
        if !self.pending.is_empty() {
            return match channel.write(&self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    Ok(count > 0)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            };
        }
        if self.ended && !self.said {
            match channel.send_eof() {
                Ok(()) => self.said = true,
                Err(error) if error.code() == WOULD_WAIT => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

/// Until the node, or this side's input, has something, or a tick has passed.
fn wait(link: &Link, input: &mut Input) {
    let mut events = PollFlags::IN;
    if matches!(link.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    {
        events |= PollFlags::OUT;
    }
    let stdin = std::io::stdin();
    let mut fds = vec![PollFd::new(&link.socket, events)];
    let listens = input.pending.is_empty() && !input.ended;
    if listens {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
    }
    // a signal that interrupts it is a tick
    let _ = poll(&mut fds, Some(&TICK));
    input.ready = listens && fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
}
