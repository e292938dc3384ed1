//! What the system's errors mean for a camera, and what to do about them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vision::error::Error;

// errno values, errno(3).
pub(super) const EPERM: i32 = 1;
pub(super) const ENOENT: i32 = 2;
pub(super) const ENXIO: i32 = 6;
pub(super) const EACCES: i32 = 13;
pub(super) const EBUSY: i32 = 16;
pub(super) const ENODEV: i32 = 19;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOTTY: i32 = 25;
pub(super) const ENOSPC: i32 = 28;
pub(super) const ENOSYS: i32 = 38;

/// The error for `error`, which `action` on the camera gave. What may pass by itself is transient.
pub(super) fn camera_error(path: &Path, action: &str, error: io::Error) -> Error {
    let name = path.display();
    let made = match error.raw_os_error() {
        Some(ENOENT) => Error::transient(format!("camera {name}: there is no such device"))
            .hint("plug the camera in; `segd probe` lists the cameras that are there"),
        Some(ENODEV | ENXIO) => Error::transient(format!("camera {name}: the device is gone"))
            .hint("it was unplugged or its driver has stopped; it is opened again when it is back"),
        Some(EBUSY) => Error::transient(format!("camera {name}: another program is using it"))
            .hint(format!("end that program; `fuser -v {name}` names it")),
        Some(EACCES | EPERM) if is_new(path) => {
            // udev sets a new node's permissions a moment after it appears.
            Error::transient(format!(
                "camera {name}: permission denied, the device has just appeared"
            ))
        }
        Some(EACCES | EPERM) => Error::fatal(format!("camera {name}: permission denied"))
            .hint("add the user to group `video`: sudo usermod -aG video $USER, then log in again"),
        // ENOSYS: QEMU's user emulation says so of what is no camera.
        Some(ENOTTY | ENOSYS) => Error::usage(format!("camera {name}: not a video device"))
            .hint("`segd probe` lists the cameras that are there"),
        Some(ENOSPC) => Error::transient(format!("camera {name}: not enough USB bandwidth"))
            .hint("use another USB port, a smaller picture or a lower rate"),
        _ => Error::transient(format!("camera {name}: {action} failed")),
    };
    made.caused_by(error)
}

/// Whether the node was made or changed within the last seconds.
fn is_new(path: &Path) -> bool {
    let (Ok(meta), Ok(now)) = (
        std::fs::metadata(path),
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH),
    ) else {
        return false;
    };
    let age = now.as_secs() as i64 - meta.ctime();
    (0..=3).contains(&age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        for (errno, transient, part) in [
            (ENOENT, true, "no such device; plug"),
            (ENODEV, true, "gone"),
            (EBUSY, true, "fuser -v /dev/null"),
            (EACCES, false, "group `video`"),
            (ENOTTY, false, "not a video device"),
            (ENOSYS, false, "not a video device"),
            (ENOSPC, true, "USB bandwidth"),
            (5, true, "reading failed"),
        ] {
            // /dev/null has been there for long: no race with udev.
            let error = camera_error(
                Path::new("/dev/null"),
                "reading",
                io::Error::from_raw_os_error(errno),
            );
            let text = error.to_string();
            assert_eq!(error.is_transient(), transient, "{text}");
            let (message, hint) = part.split_once("; ").unwrap_or((part, part));
            assert!(text.contains(message) && text.contains(hint), "{text}");
        }
        let fresh = tempfile::NamedTempFile::new().unwrap();
        let error = camera_error(fresh.path(), "opening", io::Error::from_raw_os_error(EACCES));
        assert!(error.is_transient(), "{error}");
    }
}
