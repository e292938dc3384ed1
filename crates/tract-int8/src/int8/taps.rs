//! The taps of a kernel's row, as a depthwise convolution takes them.

/// Taps of a row of a kernel whose products are added at once.
pub(super) const GROUP: usize = 4;

/// The taps of a row of a kernel: groups, and the last one by itself where it would be a group of one. That takes four channels
/// with one load, as they lie in the picture.
#[derive(Clone, Copy)]
pub struct Taps {
    /// Groups of several.
    pub(super) groups: usize,
    single: bool,
}

impl Taps {
    /// Of a row of `columns`.
    pub fn of(columns: usize) -> Self {
        Self {
            groups: columns / GROUP + usize::from(columns % GROUP > 1),
            single: columns % GROUP == 1,
        }
    }

    /// Entries of the weights for a row of the kernel.
    pub fn entries(self) -> usize {
        self.groups + usize::from(self.single)
    }

    /// The entry and the byte in it for a column's weight of a channel.
    pub fn place(self, column: usize, channel: usize) -> (usize, usize) {
        match column / GROUP {
            entry if entry == self.groups => (entry, channel),
            entry => (entry, column % GROUP),
        }
    }
}
