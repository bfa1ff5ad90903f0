//! Events on their way to the watches of one stream, turned into answers one at a time: however
//! many watches want an event, it exists once until its answer is asked for.

use std::sync::Arc;

use api::mvccpb::Event;

use crate::store::{Changes, StoreError};

use super::answer::Told;
use super::source::Source;

/// Where an event is: which part, which place in it.
type Place = (u32, u32);

/// Events and who gets them.
#[derive(Default)]
pub(crate) struct Batch {
    parts: Vec<Part>,
    /// Watch and place, sorted, so that each watch's events stand together in their order.
    hits: Vec<(i64, Place)>,
    at: usize,
}

enum Part {
    Live(Arc<Changes>),
    Past(Vec<Event>),
}

/// What one watch is sent at once.
pub(crate) struct Piece {
    pub(crate) watch: i64,
    pub(super) events: Vec<Told>,
    /// The revision of the last event.
    pub(crate) revision: i64,
    /// The rest of that revision follows.
    pub(crate) fragment: bool,
}

/// How a watch wants its events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) prev_kv: bool,
    pub(crate) fragment: bool,
}

impl Batch {
    pub(crate) fn live(&mut self, changes: Arc<Changes>) {
        self.parts.push(Part::Live(changes));
    }

    pub(crate) fn past(&mut self, events: Vec<Event>) {
        self.parts.push(Part::Past(events));
    }

    /// The event at this place of the newest part goes to a watch.
    pub(crate) fn hit(&mut self, watch: i64, at: usize) {
        self.hits.push((watch, (self.parts.len() as u32 - 1, at as u32)));
    }

    /// Ends the collecting.
    pub(crate) fn seal(&mut self) {
        self.hits.sort_unstable();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.hits.len()
    }

    /// The watch that comes next.
    pub(crate) fn next_watch(&self) -> Option<i64> {
        self.hits.get(self.at).map(|(watch, _)| *watch)
    }

    /// Passes over the events of the watch that comes next.
    pub(crate) fn skip(&mut self) {
        let Some(watch) = self.next_watch() else { return };
        while self.next_watch() == Some(watch) {
            self.at += 1;
        }
    }

    /// The next events of the next watch: as many whole revisions as fit into `limit` bytes, at
    /// least one; a part of one only if the watch takes fragments.
    pub(crate) fn piece(
        &mut self,
        shape: Shape,
        limit: usize,
        source: &impl Source,
    ) -> Result<Option<Piece>, StoreError> {
        let Some(watch) = self.next_watch() else { return Ok(None) };
        let mut piece = Piece { watch, events: Vec::new(), revision: 0, fragment: false };
        let mut bytes = 0;
        while let Some((of, place)) = self.hits.get(self.at).copied() {
            if of != watch {
                break;
            }
            let event = self.event(place);
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let begins = revision != piece.revision;
            if !piece.events.is_empty() && bytes >= limit && begins {
                break;
            }
            let told = self.told(place, shape, source)?;
            let size = size(told.event());
            if !piece.events.is_empty() && bytes + size > limit {
                if begins {
                    break;
                }
                if shape.fragment {
                    piece.fragment = true;
                    break;
                }
            }
            bytes += size;
            piece.revision = revision;
            piece.events.push(told);
            self.at += 1;
        }
        Ok(Some(piece))
    }

    fn event(&self, (part, at): Place) -> &Event {
        match &self.parts[part as usize] {
            Part::Live(changes) => &changes.events[at as usize],
            Part::Past(events) => &events[at as usize],
        }
    }

    fn told(&self, place: Place, shape: Shape, source: &impl Source) -> Result<Told, StoreError> {
        let (part, at) = (&self.parts[place.0 as usize], place.1 as usize);
        let mut event = match part {
            Part::Live(changes) if !shape.prev_kv => return Ok(Told::Shared(changes.clone(), at)),
            Part::Live(changes) => changes.events[at].clone(),
            Part::Past(events) => events[at].clone(),
        };
        if shape.prev_kv {
            event.prev_kv = match part {
                Part::Live(changes) => source.prev_of(changes, at)?,
                Part::Past(_) => source.prev(&event)?,
            };
        }
        Ok(Told::Own(event))
    }
}

fn size(event: &Event) -> usize {
    let pair = |kv: &api::mvccpb::KeyValue| kv.key.len() + kv.value.len() + 48;
    event.kv.as_ref().map_or(0, pair) + event.prev_kv.as_ref().map_or(0, pair)
}
