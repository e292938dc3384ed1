//! The keys that are in use: the one whose mask is shown, and those that are being segmented.

use super::cut::CutDetector;
use super::field::{MotionField, Vector};
use super::luma::Luma;
use super::track::{Fit, Track};
use crate::frame::ImageRef;

/// A frame that was segmented, or is being segmented.
#[derive(Debug)]
pub struct Key<M> {
    /// The caller's number of the key; later keys have larger ones.
    pub id: u64,
    /// Its mask, once it is there.
    pub mask: Option<M>,
    /// How well it explains the current frame.
    pub fit: Fit,
    /// When the picture was last seen to be the key's.
    pub fresh_ns: u64,
    /// Whether a scene cut lies between it and the current frame.
    pub before_cut: bool,
    track: Track,
}

impl<M> Key<M> {
    /// From the current frame to the key.
    pub fn field(&self) -> &MotionField {
        self.track.field()
    }
}

/// Follows up to `capacity` keys through frames of one size. Allocates only in [`new`](Self::new) and for the
/// first frame.
#[derive(Debug)]
pub struct Keys<M> {
    /// From old to new.
    keys: Vec<Key<M>>,
    free: Vec<Track>,
    current: Luma,
    cuts: CutDetector,
    velocity: Vec<Vector>,
}

impl<M> Keys<M> {
    /// For frames of `width` x `height` pixels; `capacity` is at least 1.
    pub fn new(width: usize, height: usize, capacity: usize) -> Self {
        let track = Track::new(width, height);
        Self {
            keys: Vec::with_capacity(capacity.max(1)),
            velocity: vec![Vector::default(); track.field().vectors.len()],
            free: vec![track; capacity.max(1)],
            current: Luma::new(width, height),
            cuts: CutDetector::default(),
        }
    }

    /// Goes on to the next frame: of time `now_ns`: follows every key into it. True if a scene cut lies before it.
    ///
    /// # Panics
    /// If the frame has another size than given to [`new`](Self::new).
    pub fn advance(&mut self, image: &ImageRef<'_>, now_ns: u64) -> bool {
        self.current.read(image);
        let cut = self.cuts.next(&self.current);
        if cut {
            self.velocity.fill(Vector::default());
            for key in &mut self.keys {
                key.before_cut = true;
            }
        }
        // The oldest has been followed for longest and teaches the others. Nothing is gained by following a key
        // over a cut.
        let mut learn = true;
        for key in self.keys.iter_mut().filter(|k| !k.before_cut) {
            key.fit = key.track.follow(&self.current, &mut self.velocity, learn);
            if key.fit.stands() {
                key.fresh_ns = now_ns;
            }
            learn = false;
        }
        cut
    }

    /// Makes the current frame, of time `now_ns`, a key. If there is no room, the oldest key is dropped, even if it is the
    /// one that is shown.
    pub fn start(&mut self, id: u64, now_ns: u64) {
        let mut track = match self.free.pop() {
            Some(track) => track,
            None => self.keys.remove(0).track,
        };
        track.start(&self.current);
        self.keys.push(Key {
            id,
            mask: None,
            fit: Fit {
                still: true,
                ..Fit::default()
            },
            fresh_ns: now_ns,
            before_cut: false,
            track,
        });
    }

    /// Hands a key its mask; older keys are done with. False if the key is gone.
    pub fn deliver(&mut self, id: u64, mask: M) -> bool {
        let Some(at) = self.keys.iter().position(|k| k.id == id) else {
            return false;
        };
        for done in self.keys.drain(..at) {
            self.free.push(done.track);
        }
        self.keys[0].mask = Some(mask);
        true
    }

    /// Gives up a key that gets no mask.
    pub fn abandon(&mut self, id: u64) {
        if let Some(at) = self.keys.iter().position(|k| k.id == id && k.mask.is_none()) {
            self.free.push(self.keys.remove(at).track);
        }
    }

    /// The newest key with a mask.
    pub fn shown(&self) -> Option<&Key<M>> {
        self.keys.iter().rev().find(|k| k.mask.is_some())
    }

    /// The newest key, with or without a mask.
    pub fn newest(&self) -> Option<&Key<M>> {
        self.keys.last()
    }

    /// The key of this number.
    pub fn get(&self, id: u64) -> Option<&Key<M>> {
        self.keys.iter().find(|k| k.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameFormat, PixelFormat};

    fn frame(value: impl Fn(usize, usize) -> u8) -> (FrameFormat, Vec<u8>) {
        let format = FrameFormat::new(PixelFormat::I420, 96, 64);
        let mut data = vec![128; format.packed_bytes()];
        for y in 0..64 {
            for x in 0..96 {
                data[y * 96 + x] = value(x, y);
            }
        }
        (format, data)
    }

    fn advance(keys: &mut Keys<u32>, (format, data): &(FrameFormat, Vec<u8>)) -> bool {
        keys.advance(&ImageRef::packed(*format, data).unwrap(), 0)
    }

    #[test]
    fn a_mask_ends_older_keys_and_later_ones_wait_for_theirs() {
        let mut keys = Keys::new(96, 64, 3);
        let scene = frame(|x, y| (x * 2 + y) as u8);
        assert!(!advance(&mut keys, &scene));
        keys.start(1, 0);
        assert!(keys.shown().is_none());
        advance(&mut keys, &scene);
        keys.start(2, 0);
        assert!(keys.deliver(1, 100));
        assert_eq!((keys.shown().unwrap().id, keys.newest().unwrap().id), (1, 2));
        assert!(keys.deliver(2, 200));
        assert_eq!(keys.shown().unwrap().mask, Some(200));
        assert!(!keys.deliver(1, 300), "key 1 is done with");
        keys.start(3, 0);
        keys.abandon(3);
        assert_eq!(keys.newest().unwrap().id, 2);
        // More keys than there is room for: the oldest go.
        for id in 4..9 {
            keys.start(id, 0);
        }
        assert!(keys.get(2).is_none() && keys.get(8).is_some());
    }

    #[test]
    fn keys_before_a_cut_are_marked() {
        let mut keys = Keys::new(96, 64, 3);
        advance(&mut keys, &frame(|x, _| (x * 2) as u8));
        keys.start(1, 0);
        keys.deliver(1, 100);
        assert!(advance(&mut keys, &frame(|_, y| 255 - (y / 16 * 8) as u8)));
        assert!(keys.shown().unwrap().before_cut);
        keys.start(2, 0);
        assert!(!keys.newest().unwrap().before_cut);
    }
}
