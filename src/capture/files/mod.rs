//! Recordings that are read without GStreamer: pictures, and lists of recordings.

mod animation;
mod container;
mod images;
mod playlist;
mod rgb;

pub use container::cut_short;
pub use images::{ImagesOpener, RgbPicture, is_picture_inside, list_images, load_rgb};
pub use playlist::PlaylistOpener;
pub use rgb::{RGB_TO_I420_COLOR, rgb_to_i420};
