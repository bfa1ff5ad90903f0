//! Progress on stderr: redrawn in place on a terminal, a line for each change elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use crate::overview::Overview;
use crate::print;

/// Where progress is shown.
pub(crate) struct Screen {
    terminal: bool,
    /// Lines of the block that will be drawn over.
    drawn: usize,
    last: String,
    /// What stands below the overview on a terminal.
    below: String,
    seen: BTreeMap<String, String>,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        let terminal = std::io::stderr().is_terminal();
        Screen {
            terminal,
            drawn: 0,
            last: String::new(),
            below: String::new(),
            seen: BTreeMap::new(),
        }
    }

    /// A message that stays.
    pub(crate) fn say(&mut self, text: &str) {
        let block = std::mem::take(&mut self.last);
        self.draw(&format!("{text}\n"));
        self.drawn = 0;
        self.draw(&block);
        self.last = block;
    }

    /// How things are now.
    pub(crate) fn show(&mut self, view: &Overview) {
        if self.terminal {
            let blank = if self.below.is_empty() { "" } else { "\n" };
            let text = format!("{}{blank}{}", print::overview(view), self.below);
            if text != self.last {
                self.draw(&text);
                self.last = text;
            }
        } else {
            self.changes(view);
        }
    }

    /// What the next overview has below it, on a terminal.
    pub(crate) fn below(&mut self, text: &str) {
        text.clone_into(&mut self.below);
    }

    /// What stands there stays; the next goes below.
    pub(crate) fn release(&mut self) {
        self.drawn = 0;
        self.last.clear();
    }

    fn changes(&mut self, view: &Overview) {
        let mut lines = Vec::new();
        for node in &view.nodes {
            let colon = if node.detail.is_empty() { "" } else { ": " };
            let boot = format!("{} {}{colon}{}", node.step, node.state, node.detail);
            lines.push((node.name.clone(), boot));
            if !node.claimed.is_empty() {
                let claimed = format!("without its certificate it says: {}", node.claimed);
                lines.push((format!("{}  ", node.name), claimed));
            }
            let chainfire = format!("chainfire {}, {}", node.chainfire, node.health);
            lines.push((format!("{} ", node.name), chainfire));
        }
        let leader = view.leader.as_deref().unwrap_or("none");
        let members =
            format!("leader {leader}, {} voting, {} learning", view.voters, view.learners);
        lines.push(("cluster".to_owned(), members));
        for (key, text) in lines {
            if self.seen.get(&key) != Some(&text) {
                write(&format!("{}: {text}\n", key.trim_end()));
                self.seen.insert(key, text);
            }
        }
    }

    /// Replaces the block drawn last. Each line is cut to the terminal's width: a line that wraps
    /// would make the next redraw start too low.
    fn draw(&mut self, text: &str) {
        let mut out = String::new();
        if self.terminal && self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        let width = if self.terminal { width() } else { usize::MAX };
        self.drawn = 0;
        for line in text.lines() {
            out.extend(line.chars().take(width));
            out.push('\n');
            self.drawn += 1;
        }
        write(&out);
    }
}

fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// A reader that has gone is no reason to stop a cloud.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}
