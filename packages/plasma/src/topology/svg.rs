//! The picture for a page: boxes on a line, no fonts or scripts from elsewhere.

use std::fmt::Write as _;

use inventory::{Inventory, Node};

use super::{disk, has_bootserver, networks, quorum, roles};

const BOX: usize = 250;
const GAP: usize = 30;
const MARGIN: usize = 30;
const LINE: usize = 18;
/// Boxes beside each other; more go below.
const COLUMNS: usize = 4;

pub(super) fn draw(inventory: &Inventory) -> String {
    let widest = networks(inventory).values().map(Vec::len).max().unwrap_or(1);
    let columns = widest.clamp(1, COLUMNS);
    let width = (2 * MARGIN + columns * (BOX + GAP) - GAP).max(2 * MARGIN + 2 * BOX);
    let mut svg = Svg { out: String::new(), y: MARGIN };
    let cluster = &inventory.cluster;
    svg.y += 10;
    svg.text(MARGIN, svg.y, "title", &format!("{} ({})", cluster.name, cluster.domain));
    svg.y += 2 * LINE;
    let mut has_drawn = false;
    for (name, nodes) in networks(inventory) {
        let hosts = has_bootserver(inventory, &nodes);
        has_drawn |= hosts;
        network(&mut svg, inventory, (&name, &nodes), width, columns, hosts);
    }
    if !has_drawn {
        let words =
            format!("boot server {}: on none of these networks", cluster.bootserver.address);
        svg.text(MARGIN, svg.y, "small", &words);
        svg.y += 2 * LINE;
    }
    svg.text(MARGIN, svg.y, "small", &format!("Chainfire: {}", quorum(inventory)));
    let height = svg.y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"cluster {}\">\n{STYLE}\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
        escape(&cluster.name),
        svg.out
    )
}

const STYLE: &str = "<style>\n\
    text { font-family: ui-monospace, monospace; font-size: 13px; fill: #1c2733; }\n\
    .title { font-size: 18px; font-weight: bold; }\n\
    .name { font-weight: bold; }\n\
    .small { font-size: 12px; fill: #52606d; }\n\
    .page { fill: #ffffff; }\n\
    .box { fill: #f5f7fa; stroke: #52606d; }\n\
    .former { fill: #e3f0ff; stroke: #2563b0; }\n\
    .boot { fill: #fff6e0; stroke: #b07d12; }\n\
    .wire { stroke: #52606d; stroke-width: 2; fill: none; }\n\
    .bus { stroke: #52606d; stroke-width: 4; }\n\
    </style>\n";

fn network(
    svg: &mut Svg,
    inventory: &Inventory,
    (name, nodes): (&str, &[(&str, &Node)]),
    width: usize,
    columns: usize,
    hosts: bool,
) {
    if hosts {
        let lines = vec![
            ("name", "boot server".to_owned()),
            ("", inventory.cluster.bootserver.address.to_string()),
        ];
        let top = svg.y;
        let height = svg.card(MARGIN, top, "boot", &lines);
        let x = MARGIN + BOX / 2;
        svg.wire(x, top + height, x, top + height + GAP);
        svg.y = top + height + GAP;
    }
    let bus = svg.y;
    svg.line("bus", MARGIN, bus, width - MARGIN, bus);
    let label = width - MARGIN - name.len() * 8;
    svg.text(label, bus - 8, "small", name);
    let former = &inventory.cluster.former;
    let mut top = bus + GAP;
    for (row, chunk) in nodes.chunks(columns).enumerate() {
        let mut tallest = 0;
        for (column, (name, node)) in chunk.iter().enumerate() {
            let x = MARGIN + column * (BOX + GAP);
            let class = if *name == former { "former" } else { "box" };
            let height = svg.card(x, top, class, &lines(name, node, *name == former));
            tallest = tallest.max(height);
            // the wires of a lower row pass beside the boxes above it
            let (from, x) = if row == 0 { (bus, x + BOX / 2) } else { (bus, x - GAP / 2) };
            if row == 0 {
                svg.wire(x, from, x, top);
            } else {
                svg.wire(x, from, x, top + LINE);
                svg.wire(x, top + LINE, x + GAP / 2, top + LINE);
            }
        }
        top += tallest + GAP;
    }
    svg.y = top + LINE;
}

fn lines(name: &str, node: &Node, former: bool) -> Vec<(&'static str, String)> {
    let mut lines = vec![("name", name.to_owned()), ("", node.address.to_string())];
    lines.push(("", roles(node)));
    if former {
        lines.push(("small", "forms the cluster".to_owned()));
    }
    if node.process {
        lines.push(("small", "processes, no machine".to_owned()));
    }
    lines.extend(node.macs.iter().map(|mac| ("small", format!("card {mac}"))));
    lines.extend(node.disk.as_ref().map(|d| ("small", format!("disk {}", disk(d)))));
    lines.extend(node.serial.as_ref().map(|serial| ("small", format!("serial {serial}"))));
    lines
}

struct Svg {
    out: String,
    y: usize,
}

impl Svg {
    /// A box with lines of text; its height.
    fn card(&mut self, x: usize, y: usize, class: &str, lines: &[(&str, String)]) -> usize {
        let height = lines.len() * LINE + 14;
        let _ = writeln!(
            self.out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{BOX}\" height=\"{height}\" \
             rx=\"6\"/>"
        );
        for (index, (class, text)) in lines.iter().enumerate() {
            self.text(x + 12, y + (index + 1) * LINE + 2, class, &fitting(text));
        }
        height
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let _ = writeln!(self.out, "<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escape(text));
    }

    fn wire(&mut self, x1: usize, y1: usize, x2: usize, y2: usize) {
        self.line("wire", x1, y1, x2, y2);
    }

    fn line(&mut self, class: &str, x1: usize, y1: usize, x2: usize, y2: usize) {
        let _ = writeln!(
            self.out,
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        );
    }
}

/// As much as a box is wide.
fn fitting(text: &str) -> String {
    const MOST: usize = 30;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let short: String = text.chars().take(MOST - 1).collect();
    format!("{short}…")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
