//! What a machine says on its serial line, and when it first said what.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A machine's console since it was last powered on.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    offset: u64,
    text: String,
    begun: Instant,
    marks: Vec<(&'static str, Duration)>,
}

/// What is looked for, and what it is called.
const MARKS: [(&str, &str); 6] = [
    ("iPXE initialising", "rom"),
    ("Linux version", "kernel"),
    ("systemd[1]: Hostname set", "systemd"),
    (" identify ", "agent"),
    ("bare boot ready", "bare"),
    ("Kernel panic", "panic"),
];

impl Console {
    /// From the file's end on.
    pub(crate) fn from_end(path: &Path) -> Console {
        let offset = std::fs::metadata(path).map_or(0, |data| data.len());
        Console {
            path: path.to_owned(),
            offset,
            text: String::new(),
            begun: Instant::now(),
            marks: Vec::new(),
        }
    }

    /// Reads what has come; called often, the times of [`Console::mark`] are as exact as that.
    pub fn poll(&mut self) {
        let mut more = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut more)
        });
        let Ok(got) = read else { return };
        self.offset += got as u64;
        self.text.push_str(&String::from_utf8_lossy(&more));
        for (words, name) in MARKS {
            if self.mark(name).is_none() && self.text.contains(words) {
                self.marks.push((name, self.begun.elapsed()));
            }
        }
    }

    /// How long after power-on it was first seen.
    pub fn mark(&self, name: &str) -> Option<Duration> {
        self.marks.iter().find(|(known, _)| *known == name).map(|(_, at)| *at)
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its last lines, for the report of a failure.
    pub fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }
}
