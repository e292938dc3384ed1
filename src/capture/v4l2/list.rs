//! The cameras of this machine and what they offer, for `segd probe`.

use std::path::{Path, PathBuf};

use nokhwa::utils::ApiBackend;
use v4l::Device;

use super::controls::list_controls;
use super::identity::{Nodes, device_name};
use super::mode::Mode;
use super::offered::modes_of;

/// A video device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraInfo {
    /// Its node, for example `/dev/video0`.
    pub path: PathBuf,
    /// A name that stays the same when devices are plugged in another order (`/dev/v4l/by-id/...`).
    pub by_id: Option<PathBuf>,
    /// What it can be named by, for example `usb:046d:0825:SERIAL`, if it is a USB device.
    pub usb: Option<String>,
    /// What can be set on it, one line each.
    pub controls: Vec<String>,
    /// What the device calls itself.
    pub name: String,
    /// The modes that segd can read; or why there are none.
    pub modes: Result<Vec<Mode>, String>,
}

/// The video devices of this machine, by number. Devices that give no pictures (metadata nodes, encoders)
/// are listed with the reason.
pub fn list_cameras() -> Vec<CameraInfo> {
    let by_id = links(Path::new("/dev/v4l/by-id"));
    let mut cameras: Vec<(u32, CameraInfo)> = nodes(Path::new("/dev"))
        .into_iter()
        .map(|(number, name)| {
            let path = PathBuf::from(format!("/dev/video{number}"));
            let device = Device::with_path(&path).map_err(|e| e.to_string());
            let controls = device.as_ref().map(list_controls).unwrap_or_default();
            let modes = device.and_then(|device| modes_of(&device, 640, 480));
            let usb = Nodes::default()
                .identity(&format!("video{number}"))
                .and_then(|i| i.usb);
            let info = CameraInfo {
                by_id: by_id
                    .iter()
                    .find(|(_, target)| *target == path)
                    .map(|(link, _)| link.clone()),
                usb: usb.map(|usb| format!("usb:{usb}")),
                controls,
                name,
                modes,
                path,
            };
            (number, info)
        })
        .collect();
    cameras.sort_by_key(|(number, _)| *number);
    cameras.into_iter().map(|(_, info)| info).collect()
}

/// Numbers and names of the video nodes, from nokhwa.
fn nodes(dev: &Path) -> Vec<(u32, String)> {
    // nokhwa takes every entry whose name begins with "video" for a node with a number, and panics on one
    // without.
    let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
    let strange = |name: &std::ffi::OsStr| match name.to_str() {
        Some(name) => name
            .strip_prefix("video")
            .is_some_and(|number| number.parse::<u32>().is_err()),
        None => true,
    };
    if entries.map(|e| e.file_name()).any(|name| strange(&name)) {
        return numbered_nodes(dev);
    }
    nokhwa::query(ApiBackend::Video4Linux)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|camera| Some((camera.index().as_index().ok()?, camera.human_name())))
        .collect()
}

/// Numbers and names of the video nodes, from the folder and sysfs.
fn numbered_nodes(dev: &Path) -> Vec<(u32, String)> {
    let number = |name: String| name.strip_prefix("video")?.parse::<u32>().ok();
    std::fs::read_dir(dev)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| number(entry.file_name().into_string().ok()?))
        .map(|n| (n, device_name(&format!("video{n}"))))
        .collect()
}

/// The links of a folder and the devices that they lead to.
fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.path(), std::fs::canonicalize(entry.path()).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_strange_names_do_not_panic() {
        let dev = tempfile::tempdir().unwrap();
        for name in ["video-dec", "video12", "video3", "videodev", "null"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        let mut found = nodes(dev.path());
        found.sort();
        assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3, 12]);
        assert_eq!(found[0].1, device_name("video3"));
    }

    #[test]
    fn links_lead_to_their_devices() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("usb-Camera_1-video-index0");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("gone")).unwrap();
        assert_eq!(links(folder.path()), [(link, PathBuf::from("/dev/null"))]);
        assert!(links(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn listing_works_with_or_without_cameras() {
        for camera in list_cameras() {
            assert!(camera.path.starts_with("/dev"));
        }
    }
}
