//! A picture to train on, as all steps of the data's way hold it.

/// A picture in memory with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height, width, 3]`, RGB.
    pub rgb: Vec<u8>,
    /// `[height * width]` class numbers.
    pub labels: Vec<u8>,
    /// The objects, where they are told apart.
    pub objects: Option<Objects>,
}

/// The objects of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// `[height * width]`: the [`Object::number`] of each pixel's object, 0 where there is none,
    /// [`IGNORE`](vision::dataset::IGNORE) where nobody knows.
    pub numbers: Vec<u8>,
    /// What is known of each.
    pub list: Vec<Object>,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Its number: 1 to 254, no other of the picture has it.
    pub number: u8,
    /// Its class.
    pub class: u8,
    /// Its box in pixels: left, top, right, bottom, the last two one past it.
    pub bounds: [f32; 4],
    /// Who drew the box was in doubt: neither is it taught, nor is a network taught that nothing is there.
    pub difficult: bool,
    /// Whether its pixels are known; of others the box alone is.
    pub has_mask: bool,
}

impl Objects {
    /// The objects of a picture that is brought to another size by taking the nearest pixels.
    #[must_use]
    pub fn resized(&self, [width, height]: [usize; 2], [to_width, to_height]: [usize; 2]) -> Self {
        let source = |at: usize, from: usize, to: usize| (2 * at + 1) * from / (2 * to);
        let rows = (0..to_height).map(|y| source(y, height, to_height));
        let numbers = rows
            .flat_map(|y| (0..to_width).map(move |x| y * width + source(x, width, to_width)))
            .map(|index| self.numbers[index])
            .collect();
        let scale = [to_width as f32 / width as f32, to_height as f32 / height as f32];
        let list = self.list.iter().map(|object| Object {
            bounds: std::array::from_fn(|side| object.bounds[side] * scale[side % 2]),
            ..*object
        });
        Self {
            numbers,
            list: list.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_scaled_as_pixels_are() {
        let numbers = (0..32).map(|i| u8::from(i % 8 >= 4 && i >= 16)).collect();
        let object = Object {
            number: 1,
            class: 3,
            bounds: [4.0, 2.0, 8.0, 4.0],
            difficult: false,
            has_mask: true,
        };
        let objects = Objects {
            numbers,
            list: vec![object],
        };
        let small = objects.resized([8, 4], [4, 2]);
        assert_eq!(small.numbers, [0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(small.list[0].bounds, [2.0, 1.0, 4.0, 2.0]);
        assert_eq!(objects.resized([8, 4], [8, 4]), objects);
    }
}
