//! A picture to train on, as all steps of the data's way hold it.

/// A picture in memory with its labels.
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height, width, 3]`, RGB.
    pub rgb: Vec<u8>,
    /// `[height * width]` class numbers.
    pub labels: Vec<u8>,
}
