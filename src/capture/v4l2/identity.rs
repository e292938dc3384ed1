//! Which camera is meant, when it comes back under another number.
//!
//! The kernel numbers `/dev/videoN` in the order of plugging in. What stays the same is a USB device's vendor,
//! product and serial number, or for other devices the name that the driver gives
//! (<https://docs.kernel.org/userspace-api/media/v4l/open.html#v4l2-device-node-naming>).

use std::fmt;
use std::path::{Path, PathBuf};

use vision::error::{Error, Result};

/// USB vendor and product number, and the serial number if the device has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbId {
    /// Four hexadecimal digits.
    pub vendor: String,
    /// Four hexadecimal digits.
    pub product: String,
    /// Empty if the device has none, or any is meant.
    pub serial: String,
}

impl UsbId {
    /// Reads `VENDOR:PRODUCT[:SERIAL]`.
    ///
    /// # Errors
    /// Usage.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let (vendor, product) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let is_id = |id: &str| id.len() == 4 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id(vendor) || !is_id(product) {
            return Err(
                Error::usage(format!("camera usb:{text}: expected usb:VENDOR:PRODUCT[:SERIAL]"))
                    .hint("as in usb:046d:0825; `segd probe` lists the cameras that are there"),
            );
        }
        Ok(Self {
            vendor: vendor.to_ascii_lowercase(),
            product: product.to_ascii_lowercase(),
            serial: parts.next().unwrap_or("").to_owned(),
        })
    }

    /// Whether `other` is such a device.
    fn means(&self, other: &Self) -> bool {
        (&self.vendor, &self.product) == (&other.vendor, &other.product)
            && (self.serial.is_empty() || self.serial == other.serial)
    }
}

/// As it is written in the configuration, after `usb:`.
impl fmt::Display for UsbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor, self.product)?;
        if !self.serial.is_empty() {
            write!(f, ":{}", self.serial)?;
        }
        Ok(())
    }
}

/// What tells a video node from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// For USB devices.
    pub usb: Option<UsbId>,
    /// The driver's name for it.
    pub name: String,
    /// Which of its device's nodes it is: cameras have a second one for metadata.
    pub index: u32,
}

/// Where nodes and what is known of them are found.
#[derive(Debug, Clone)]
pub struct Nodes {
    dev: PathBuf,
    class: PathBuf,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            dev: "/dev".into(),
            class: "/sys/class/video4linux".into(),
        }
    }
}

impl Nodes {
    /// What is known of a node such as `video0`.
    pub fn identity(&self, node: &str) -> Option<Identity> {
        let folder = self.class.join(node);
        let read = |path: PathBuf| std::fs::read_to_string(path).ok().map(|t| t.trim().to_owned());
        let name = read(folder.join("name"))?;
        let index = read(folder.join("index"))
            .and_then(|t| t.parse().ok())
            .unwrap_or(0);
        // The link leads to the USB interface; numbers and serial are the device's above it.
        let usb = folder.join("device").canonicalize().ok().and_then(|interface| {
            let device = interface.parent()?;
            Some(UsbId {
                vendor: read(device.join("idVendor"))?,
                product: read(device.join("idProduct"))?,
                serial: read(device.join("serial")).unwrap_or_default(),
            })
        });
        Some(Identity { usb, name, index })
    }

    /// All nodes that exist, by number.
    fn all(&self) -> Vec<(PathBuf, Identity)> {
        let mut numbers: Vec<u32> = std::fs::read_dir(&self.class)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("video")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let node = |n: u32| {
            let name = format!("video{n}");
            let path = self.dev.join(&name);
            path.exists().then_some(())?;
            Some((path, self.identity(&name)?))
        };
        numbers.into_iter().filter_map(node).collect()
    }

    /// The first picture node of a USB device.
    pub fn find_usb(&self, wanted: &UsbId) -> Option<PathBuf> {
        let is_it = |i: &Identity| i.index == 0 && i.usb.as_ref().is_some_and(|usb| wanted.means(usb));
        self.all()
            .into_iter()
            .find(|(_, i)| is_it(i))
            .map(|(path, _)| path)
    }

    /// The node of a device that was seen before.
    fn find(&self, identity: &Identity) -> Option<PathBuf> {
        self.all()
            .into_iter()
            .find(|(_, i)| i == identity)
            .map(|(path, _)| path)
    }

    /// The identity of the node that `path` is or leads to.
    fn identity_at(&self, path: &Path) -> Option<Identity> {
        let node = path.canonicalize().ok()?;
        self.identity(node.file_name()?.to_str()?)
    }

    /// The node to open for `path`, given what stood there when it was opened last; and its identity.
    ///
    /// # Errors
    /// Usage, for a USB name that can't be read; transient, if the camera isn't there.
    pub fn resolve(&self, path: &Path, before: Option<&Identity>) -> Result<(PathBuf, Option<Identity>)> {
        if let Some(usb) = path.to_str().and_then(|text| text.strip_prefix("usb:")) {
            let usb = UsbId::parse(usb)?;
            let found = self.find_usb(&usb).ok_or_else(|| {
                Error::transient(format!("camera usb:{usb}: there is no such device"))
                    .hint("plug the camera in; `segd probe` lists the cameras that are there")
            })?;
            let identity = self.identity_at(&found);
            return Ok((found, identity));
        }
        let now = self.identity_at(path);
        // A link of /dev/v4l/by-id or by-path says itself which device is meant.
        let is_number = path.parent() == Some(self.dev.as_path());
        match (before, &now) {
            (Some(before), now) if is_number && now.as_ref() != Some(before) => {
                match (self.find(before), now) {
                    (Some(found), _) => Ok((found, Some(before.clone()))),
                    // The node is gone: opening it says so.
                    (None, None) => Ok((path.to_owned(), None)),
                    (None, Some(other)) => Err(Error::transient(format!(
                        "camera {}: {} is gone, and {} has its number",
                        path.display(),
                        before.name,
                        other.name
                    ))
                    .hint("plug the camera in again; to use the other one, restart segd")),
                }
            }
            _ => Ok((path.to_owned(), now)),
        }
    }
}

/// What the kernel calls a node such as `video0`; the node's own name if it doesn't tell.
pub(super) fn device_name(node: &str) -> String {
    std::fs::read_to_string(format!("/sys/class/video4linux/{node}/name"))
        .map_or_else(|_| node.to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with nodes that can be plugged.
    struct Machine {
        folder: tempfile::TempDir,
        nodes: Nodes,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let nodes = Nodes {
                dev: folder.path().join("dev"),
                class: folder.path().join("class"),
            };
            std::fs::create_dir_all(&nodes.dev).unwrap();
            std::fs::create_dir_all(&nodes.class).unwrap();
            Self { folder, nodes }
        }

        fn plug(&self, number: u32, name: &str, usb: Option<(&str, &str, &str)>, index: u32) {
            let node = format!("video{number}");
            let class = self.nodes.class.join(&node);
            let device = self.folder.path().join(format!("usb{number}"));
            std::fs::create_dir_all(device.join("interface")).unwrap();
            std::fs::create_dir_all(&class).unwrap();
            std::fs::write(class.join("name"), format!("{name}\n")).unwrap();
            std::fs::write(class.join("index"), format!("{index}\n")).unwrap();
            std::os::unix::fs::symlink(device.join("interface"), class.join("device")).unwrap();
            if let Some((vendor, product, serial)) = usb {
                for (file, text) in [("idVendor", vendor), ("idProduct", product), ("serial", serial)] {
                    std::fs::write(device.join(file), text).unwrap();
                }
            }
            std::fs::write(self.nodes.dev.join(&node), "").unwrap();
        }

        fn unplug(&self, number: u32) {
            std::fs::remove_dir_all(self.nodes.class.join(format!("video{number}"))).unwrap();
            std::fs::remove_dir_all(self.folder.path().join(format!("usb{number}"))).unwrap();
            std::fs::remove_file(self.dev(number)).unwrap();
        }

        fn dev(&self, number: u32) -> PathBuf {
            self.nodes.dev.join(format!("video{number}"))
        }
    }

    #[test]
    fn a_camera_is_found_under_its_new_number() {
        let machine = Machine::new();
        let logitech = Some(("046d", "0825", "A1"));
        machine.plug(0, "C270", logitech, 0);
        machine.plug(1, "C270", logitech, 1);
        let (path, identity) = machine.nodes.resolve(&machine.dev(0), None).unwrap();
        assert_eq!(path, machine.dev(0));
        machine.unplug(0);
        machine.unplug(1);
        let gone = machine.nodes.resolve(&machine.dev(0), identity.as_ref()).unwrap();
        assert_eq!(gone, (machine.dev(0), None), "opening it says that it is gone");
        machine.plug(2, "C270", logitech, 0);
        let (path, _) = machine.nodes.resolve(&machine.dev(0), identity.as_ref()).unwrap();
        assert_eq!(path, machine.dev(2));
        // Another camera takes the old number: it is not the one.
        machine.plug(0, "Other", Some(("1111", "2222", "")), 0);
        let (path, _) = machine.nodes.resolve(&machine.dev(0), identity.as_ref()).unwrap();
        assert_eq!(path, machine.dev(2));
        machine.unplug(2);
        let error = machine
            .nodes
            .resolve(&machine.dev(0), identity.as_ref())
            .unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains("Other has its number"),
            "{error}"
        );
    }

    #[test]
    fn a_camera_is_found_by_its_usb_numbers() {
        let machine = Machine::new();
        machine.plug(0, "A", Some(("046d", "0825", "A1")), 0);
        machine.plug(1, "A", Some(("046d", "0825", "A1")), 1);
        machine.plug(4, "B", Some(("046d", "0825", "B2")), 0);
        let find = |text: &str| machine.nodes.resolve(Path::new(text), None).map(|(path, _)| path);
        assert_eq!(find("usb:046D:0825").unwrap(), machine.dev(0));
        assert_eq!(find("usb:046d:0825:B2").unwrap(), machine.dev(4));
        assert!(find("usb:046d:0825:C3").unwrap_err().is_transient());
        assert_eq!(find("usb:46d:825").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn devices_without_usb_go_by_their_name() {
        let machine = Machine::new();
        machine.plug(0, "vivid-000-vid-cap", None, 0);
        let (_, identity) = machine.nodes.resolve(&machine.dev(0), None).unwrap();
        machine.unplug(0);
        machine.plug(3, "vivid-000-vid-cap", None, 0);
        let (path, _) = machine.nodes.resolve(&machine.dev(0), identity.as_ref()).unwrap();
        assert_eq!(path, machine.dev(3));
    }
}
