//! What may be done with a disk that was found: a pure decision, and the only one.

use fault::{Fault, Kind};

use super::claim::{Claim, Sector, Stage};
use super::select::stop;
use crate::codes;

/// What stands on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The disk, for people.
    pub(crate) shown: String,
    /// Its serial number or WWN.
    pub(crate) name: String,
    /// The claim's sector.
    pub(crate) sector: Sector,
    /// Its partition table, see [`super::table`].
    pub(crate) table: String,
    /// What was found beside the claim, for people; nothing means empty.
    pub(crate) traces: Vec<String>,
    /// Whether the inventory consents to erase it.
    pub(crate) consent: bool,
}

/// Under which order it is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) cluster_id: &'a str,
    pub(crate) node: &'a str,
    pub(crate) install_id: &'a str,
}

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is laid out under this order: nothing is destroyed.
    Ready,
    /// It is claimed under this order, and not laid out yet: erase what there is, and lay out.
    GoOn,
    /// It may be claimed, erased and laid out.
    Take,
}

/// Judges one disk.
pub(crate) fn judge(found: &Found, wanted: Wanted<'_>) -> Result<Verdict, Fault> {
    match &found.sector {
        Sector::Claim(claim) if is_ours(claim, found, wanted) => ours(claim, found, wanted),
        Sector::Claim(claim) if !found.consent => Err(stop(
            codes::DISK_CLAIMED,
            format!(
                "{} is the disk {} of node {} in cluster {}",
                found.shown, claim.disk, claim.node, claim.cluster_id
            ),
            "put it back into that machine, or add its serial to disk.consentToErase in nodes/cluster.nix",
        )),
        Sector::Data | Sector::Nothing | Sector::Torn
            if !found.traces.is_empty() && !found.consent =>
        {
            Err(stop(
                codes::DISK_FOREIGN,
                format!("{} is not empty: {}", found.shown, found.traces.join(", ")),
                "save what is on it; to erase it, add its serial to disk.consentToErase in nodes/cluster.nix",
            ))
        }
        _ => Ok(Verdict::Take),
    }
}

/// Judges all disks of a node together: a mirror is laid out as one.
pub(crate) fn judge_all(found: &[Found], wanted: Wanted<'_>) -> Result<Verdict, Fault> {
    let mut verdicts = Vec::new();
    for disk in found {
        verdicts.push((disk, judge(disk, wanted)?));
    }
    let ready = verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Ready);
    let fresh = verdicts.iter().find(|(_, verdict)| *verdict == Verdict::Take);
    match (ready, fresh) {
        // the marks of laying out come last: one of them says that the whole was laid out
        (true, None) => Ok(Verdict::Ready),
        (true, Some((disk, _))) => Err(stop(
            codes::DISK_DAMAGED,
            format!(
                "the other disk of this mirror is installed, and {} is not part of it",
                disk.shown
            ),
            "add it to the mirror by hand, or order the node installed again: plasma node wipe",
        )),
        (false, Some(_)) => Ok(Verdict::Take),
        (false, None) => Ok(Verdict::GoOn),
    }
}

fn is_ours(claim: &Claim, found: &Found, wanted: Wanted<'_>) -> bool {
    claim.cluster_id == wanted.cluster_id
        && claim.node == wanted.node
        // the copy of a disk is not the disk
        && claim.disk == found.name
}

fn ours(claim: &Claim, found: &Found, wanted: Wanted<'_>) -> Result<Verdict, Fault> {
    if claim.install_id == wanted.install_id {
        return Ok(match claim.stage {
            Stage::LaidOut => Verdict::Ready,
            Stage::Claimed => Verdict::GoOn,
        });
    }
    if is_older(wanted.install_id, &claim.install_id) {
        return Err(Fault::new(
            codes::DISK_NEWER,
            Kind::Precondition,
            format!(
                "{} was installed under {}, and the boot server's order {} is older",
                found.shown, claim.install_id, wanted.install_id
            ),
            "the boot server's registry went back in time; if the disk shall be erased, order it anew: plasma node wipe",
        ));
    }
    // until it was laid out, all that is on it may be erased; after that, only what we laid out
    if claim.stage == Stage::LaidOut && !is_as_laid_out(claim, found) {
        return Err(stop(
            codes::DISK_FOREIGN,
            format!(
                "{} was this node's under {}, and was partitioned anew since: {}",
                found.shown,
                claim.install_id,
                found.traces.join(", ")
            ),
            "save what is on it; to erase it, add its serial to disk.consentToErase in nodes/cluster.nix",
        ));
    }
    Ok(Verdict::Take)
}

/// Nothing of somebody else's came on the disk that an older order laid out, or may go with it.
fn is_as_laid_out(claim: &Claim, found: &Found) -> bool {
    let same = !claim.table.is_empty() && claim.table == found.table;
    same || found.traces.is_empty() || found.consent
}

/// Orders are UUIDv7: they begin with the time at which they were made. Others have no order.
fn is_older(a: &str, b: &str) -> bool {
    let time = |text: &str| {
        let id: Vec<char> = text.chars().filter(|c| *c != '-').collect();
        let version = id.get(12).copied();
        (id.len() == 32 && version == Some('7') && id.iter().all(char::is_ascii_hexdigit))
            .then(|| id.iter().take(12).collect::<String>().to_lowercase())
    };
    matches!((time(a), time(b)), (Some(a), Some(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0198d2c4-0000-7000-8000-000000000001";
    const NOW: &str = "0198d2c5-0000-7000-8000-000000000002";
    const WANTED: Wanted<'_> = Wanted { cluster_id: "c", node: "node01", install_id: NOW };

    fn claim(install_id: &str, stage: Stage) -> Claim {
        Claim {
            cluster_id: "c".into(),
            node: "node01".into(),
            install_id: install_id.into(),
            disk: "A".into(),
            stage,
            table: if stage == Stage::LaidOut { "ours".into() } else { String::new() },
        }
    }

    fn found(sector: Sector, traces: &[&str], consent: bool) -> Found {
        Found {
            shown: "/dev/sda".into(),
            name: "A".into(),
            sector,
            table: "ours".into(),
            traces: traces.iter().map(|&trace| trace.to_owned()).collect(),
            consent,
        }
    }

    #[test]
    fn the_table_of_one_disk() {
        use Sector::{Claim as C, Data, Nothing, Torn};
        let other_node = Claim { node: "node02".into(), ..claim(NOW, Stage::LaidOut) };
        let other_cluster = Claim { cluster_id: "d".into(), ..claim(NOW, Stage::LaidOut) };
        let copied = Claim { disk: "B".into(), ..claim(NOW, Stage::LaidOut) };
        let gpt: &[&str] = &["gpt"];
        let divided = |found: Found| Found { table: "another's".into(), ..found };
        let unread = |found: Found| Found { table: String::new(), ..found };
        let nameless = Claim { table: String::new(), ..claim(OLD, Stage::LaidOut) };
        let table = [
            (found(Nothing, &[], false), Ok(Verdict::Take)),
            (found(Torn, &[], false), Ok(Verdict::Take)),
            (found(Nothing, gpt, false), Err(codes::DISK_FOREIGN)),
            (found(Torn, gpt, false), Err(codes::DISK_FOREIGN)),
            (found(Data, &["data"], false), Err(codes::DISK_FOREIGN)),
            (found(Nothing, gpt, true), Ok(Verdict::Take)),
            (found(C(claim(NOW, Stage::Claimed)), gpt, false), Ok(Verdict::GoOn)),
            (found(C(claim(NOW, Stage::LaidOut)), gpt, false), Ok(Verdict::Ready)),
            (found(C(claim(NOW, Stage::LaidOut)), gpt, true), Ok(Verdict::Ready)),
            (found(C(claim(OLD, Stage::LaidOut)), gpt, false), Ok(Verdict::Take)),
            (found(C(claim(OLD, Stage::Claimed)), gpt, false), Ok(Verdict::Take)),
            // laid out for us once, and used by somebody else since
            (divided(found(C(claim(OLD, Stage::LaidOut)), gpt, false)), Err(codes::DISK_FOREIGN)),
            (unread(found(C(claim(OLD, Stage::LaidOut)), gpt, false)), Err(codes::DISK_FOREIGN)),
            (unread(found(C(nameless), gpt, false)), Err(codes::DISK_FOREIGN)),
            (divided(found(C(claim(OLD, Stage::LaidOut)), gpt, true)), Ok(Verdict::Take)),
            (unread(found(C(claim(OLD, Stage::LaidOut)), &[], false)), Ok(Verdict::Take)),
            // nothing is erased under the order that laid it out; the step looks for its mark
            (divided(found(C(claim(NOW, Stage::LaidOut)), gpt, false)), Ok(Verdict::Ready)),
            // a consent holds until the disk is laid out
            (divided(found(C(claim(OLD, Stage::Claimed)), gpt, false)), Ok(Verdict::Take)),
            (divided(found(C(claim(NOW, Stage::Claimed)), gpt, false)), Ok(Verdict::GoOn)),
            (found(C(other_node.clone()), &[], false), Err(codes::DISK_CLAIMED)),
            (found(C(other_node), gpt, true), Ok(Verdict::Take)),
            (found(C(other_cluster), gpt, false), Err(codes::DISK_CLAIMED)),
            (found(C(copied), gpt, false), Err(codes::DISK_CLAIMED)),
        ];
        for (found, expected) in table {
            assert_eq!(judge(&found, WANTED).map_err(|f| f.code), expected, "{found:?}");
        }
    }

    #[test]
    fn an_older_order_never_erases_a_newer_install() {
        let newer = found(Sector::Claim(claim(NOW, Stage::LaidOut)), &["gpt"], true);
        let replayed = Wanted { install_id: OLD, ..WANTED };
        assert_eq!(judge(&newer, replayed).map_err(|f| f.code), Err(codes::DISK_NEWER));
        assert!(!is_older("a", "b"));
    }

    #[test]
    fn a_mirror_is_judged_as_one() {
        let ready = found(Sector::Claim(claim(NOW, Stage::LaidOut)), &["gpt"], false);
        let claimed = found(Sector::Claim(claim(NOW, Stage::Claimed)), &["gpt"], false);
        let empty = found(Sector::Nothing, &[], false);
        let all = |disks: &[&Found]| {
            let disks: Vec<Found> = disks.iter().map(|&disk| disk.clone()).collect();
            judge_all(&disks, WANTED).map_err(|f| f.code)
        };
        assert_eq!(all(&[&ready, &claimed]), Ok(Verdict::Ready));
        assert_eq!(all(&[&ready, &empty]), Err(codes::DISK_DAMAGED));
        assert_eq!(all(&[&claimed, &empty]), Ok(Verdict::Take));
        assert_eq!(all(&[&claimed, &claimed]), Ok(Verdict::GoOn));
    }
}
