//! Which of the objects that were found become segments, and in which order they are drawn.

use crate::model::contract::{MAX_SEGMENTS, Objects};
use crate::scene::Segment;

/// Classes that must not be seen: for each class whether it is one of them.
pub type Hidden = [bool; 256];

/// An object, or what may be one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    pub class: u8,
    pub score: f32,
    /// Less sure than an object must be.
    pub doubtful: bool,
    /// Where its numbers are.
    pub index: usize,
    /// Its segment; set by [`enlist`].
    pub number: u8,
}

impl Found {
    /// What may be of the hidden `class`, though the network rather thinks it another; `None` if it is too unsure.
    pub fn unlikely(index: usize, class: u8, score: f32, objects: &Objects) -> Option<Self> {
        (score >= objects.doubt).then_some(Self {
            class,
            score,
            doubtful: true,
            index,
            number: 0,
        })
    }

    /// What was found with `score`; `None` if that is too little for its class.
    pub fn new(index: usize, class: u8, score: f32, objects: &Objects, hidden: &Hidden) -> Option<Self> {
        let doubtful = score < objects.score;
        let counts = !doubtful || hidden[usize::from(class)] && score >= objects.doubt;
        counts.then_some(Self {
            class,
            score,
            doubtful,
            index,
            number: 0,
        })
    }
}

/// Gives what was found its segments, which are added to those that `segments` holds already, and its order: what is drawn
/// later comes first. Hidden classes come first, then what is sure, then higher scores.
///
/// Each sure object has a segment of its own, up to [`Objects::max_objects`] and [`MAX_SEGMENTS`]. All that is doubtful
/// of a class shares one segment, and so do sure objects of a hidden class for which there is no room. Other objects
/// without room are taken out.
pub(super) fn enlist(
    found: &mut Vec<Found>,
    objects: &Objects,
    hidden: &Hidden,
    segments: &mut Vec<Segment>,
) {
    let is_hidden = |found: &Found| hidden[usize::from(found.class)];
    found.sort_unstable_by(|a, b| {
        let hidden_first = is_hidden(b).cmp(&is_hidden(a));
        let sure_first = a.doubtful.cmp(&b.doubtful);
        let best_first = b.score.total_cmp(&a.score);
        hidden_first
            .then(sure_first)
            .then(best_first)
            .then(a.index.cmp(&b.index))
    });
    let mut may_share = [false; 256];
    found
        .iter()
        .filter(|found| is_hidden(found))
        .for_each(|found| may_share[usize::from(found.class)] = true);
    let shared = may_share.iter().filter(|shares| **shares).count();
    let room = (MAX_SEGMENTS.saturating_sub(segments.len() + shared)).min(objects.max_objects);
    let mut objects_so_far = 0;
    let mut shared_number: [Option<u8>; 256] = [None; 256];
    let mut last_shared = None;
    found.retain_mut(|found| {
        let class = usize::from(found.class);
        if !found.doubtful && objects_so_far < room {
            found.number = number(segments.len());
            segments.push(Segment {
                class: found.class.into(),
                instance: Some(objects_so_far as u32),
                track: None,
                score: found.score,
                doubtful: false,
            });
            objects_so_far += 1;
            return true;
        }
        if !hidden[class] {
            return false;
        }
        found.doubtful = true;
        if shared_number[class].is_none() {
            // More hidden classes than there are numbers: the last one stands for the rest.
            shared_number[class] = last_shared.filter(|_| segments.len() >= MAX_SEGMENTS);
        }
        found.number = *shared_number[class].get_or_insert_with(|| {
            let made = number(segments.len());
            segments.push(Segment {
                score: found.score,
                doubtful: true,
                ..Segment::of_class(found.class.into())
            });
            made
        });
        last_shared = shared_number[class];
        true
    });
}

/// A segment's place as a byte; no list of segments is longer.
fn number(place: usize) -> u8 {
    u8::try_from(place).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_hidden_is_lost_and_no_number_is_used_twice(
            list in prop::collection::vec((1..8_u8, 0.0..1.0_f32), 0..400),
            hides in prop::collection::vec(any::<bool>(), 8),
            max_objects in 1..250_usize,
            before in 1..200_usize,
        ) {
            let objects = Objects { max_objects, ..Objects::default() };
            let mut hidden = [false; 256];
            hidden[..8].copy_from_slice(&hides);
            let mut segments: Vec<Segment> = (0..before).map(|_| Segment::of_class(0)).collect();
            let mut found: Vec<Found> = list.iter().enumerate()
                .filter_map(|(index, &(class, score))| Found::new(index, class, score, &objects, &hidden))
                .collect();
            let all = found.clone();
            enlist(&mut found, &objects, &hidden, &mut segments);
            prop_assert!(segments.len() <= MAX_SEGMENTS);
            let sure = segments[before..].iter().filter(|s| !s.doubtful).count();
            prop_assert!(sure <= max_objects);
            for object in &all {
                let kept = found.iter().find(|f| f.index == object.index);
                if hidden[usize::from(object.class)] {
                    let segment = &segments[usize::from(kept.unwrap().number)];
                    prop_assert_eq!(segment.class, u16::from(object.class));
                } else if let Some(kept) = kept {
                    prop_assert!(!kept.doubtful && !segments[usize::from(kept.number)].doubtful);
                } else {
                    // Only for want of room, and then no worse one of its kind was kept.
                    let better = found.iter().filter(|f| !hidden[usize::from(f.class)]);
                    prop_assert!(better.clone().all(|f| f.score >= object.score));
                    prop_assert!(sure == max_objects || segments.len() + 8 > MAX_SEGMENTS);
                }
            }
            let mut numbers: Vec<u8> = found.iter().filter(|f| !f.doubtful).map(|f| f.number).collect();
            numbers.sort_unstable();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
