//! What kind of board this is: on a Jetson its release of L4T and JetPack, and its power mode. The parsers are pure;
//! only [`Board::read`] looks at the machine.

use std::fmt;
use std::path::Path;

/// A release of NVIDIA's Linux for Tegra, as `36.4.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct L4t {
    /// The line of releases: 32, 35, 36.
    pub major: u32,
    /// The release in its line.
    pub minor: u32,
    /// Its correction; 0 for none.
    pub patch: u32,
}

impl fmt::Display for L4t {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl L4t {
    /// The release in `/etc/nv_tegra_release`, whose first line is like
    /// `# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: ...`.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.contains("REVISION:"))?;
        let major = line.trim_start_matches('#').trim_start().strip_prefix('R')?;
        let major = major.split_whitespace().next()?.parse().ok()?;
        let revision = line.split("REVISION:").nth(1)?.split(',').next()?.trim();
        let mut numbers = revision.split('.').map(str::parse);
        let minor = numbers.next()?.ok()?;
        let patch = match numbers.next() {
            None => 0,
            Some(patch) => patch.ok()?,
        };
        Some(Self { major, minor, patch })
    }

    /// The JetPack that brings this release (<https://developer.nvidia.com/embedded/jetson-linux-archive>); only its
    /// first number where the release is newer than this list.
    pub fn jetpack(self) -> Option<&'static str> {
        Some(match (self.major, self.minor, self.patch) {
            (38, ..) => "7",
            (36, 2, _) => "6.0 DP",
            (36, 3, _) => "6.0",
            (36, 4, 0) => "6.1",
            (36, 4, 3) => "6.2",
            (36, 4, 4) => "6.2.1",
            (36, ..) => "6",
            (35, 1, _) => "5.0.2",
            (35, 2, _) => "5.1",
            (35, 3, _) => "5.1.1",
            (35, 4, _) => "5.1.2",
            (35, 5, _) => "5.1.3",
            (35, 6, 0) => "5.1.4",
            (35, ..) => "5",
            (32, 7, 1) => "4.6.1",
            (32, 7, 2) => "4.6.2",
            (32, 7, 3) => "4.6.3",
            (32, 7, 4) => "4.6.4",
            (32, ..) => "4",
            _ => return None,
        })
    }
}

/// A power mode of `nvpmodel`: which cores and clocks may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerMode {
    /// Its number, for `nvpmodel -m`.
    pub number: Option<u32>,
    /// Its name: `MAXN`, `15W`.
    pub name: Option<String>,
}

impl fmt::Display for PowerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.number) {
            (Some(name), Some(number)) => write!(f, "{name} (mode {number})"),
            (Some(name), None) => f.write_str(name),
            (None, Some(number)) => write!(f, "mode {number}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// The mode in what `nvpmodel -q` prints, such as `NV Power Mode: 15W` and the number in a line of its own.
pub fn power_mode_of_query(text: &str) -> Option<PowerMode> {
    let mut lines = text.lines().map(str::trim);
    let name = lines.find_map(|line| line.strip_prefix("NV Power Mode:"))?.trim();
    let number = lines.find_map(|line| line.parse().ok());
    Some(PowerMode {
        number,
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
    })
}

/// The mode's number in `/var/lib/nvpmodel/status`, such as `pmode:0002 fmode:quiet`.
pub fn power_mode_of_status(text: &str) -> Option<u32> {
    let mode = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("pmode:"))?;
    mode.parse().ok()
}

/// Numbers and names of the modes in `/etc/nvpmodel.conf`, whose lines are like `< POWER_MODEL ID=0 NAME=MAXN >`.
pub fn power_modes(conf: &str) -> Vec<(u32, String)> {
    let one = |line: &str| {
        let inside = line.trim().strip_prefix('<')?.strip_suffix('>')?.trim();
        let mut words = inside.strip_prefix("POWER_MODEL ")?.split_whitespace();
        let number = words.find_map(|w| w.strip_prefix("ID="))?.parse().ok()?;
        let name = words.find_map(|w| w.strip_prefix("NAME="))?;
        Some((number, name.to_owned()))
    };
    conf.lines().filter_map(one).collect()
}

/// A board, as its system describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// The device tree's model: `NVIDIA Jetson Orin Nano Developer Kit`, `Raspberry Pi 5 Model B Rev 1.0`.
    pub model: Option<String>,
    /// The release, on a Jetson.
    pub l4t: Option<L4t>,
    /// The power mode, on a Jetson.
    pub power_mode: Option<PowerMode>,
    /// All power modes that it has.
    pub power_modes: Vec<(u32, String)>,
}

impl Board {
    /// What this machine says.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// As [`read`](Self::read), of the system in a folder; `nvpmodel` is run only for `/`.
    fn read_below(root: &Path) -> Self {
        let text = |path: &str| {
            let bytes = std::fs::read(root.join(path)).ok()?;
            Some(
                String::from_utf8_lossy(&bytes)
                    .trim_end_matches(['\0', '\n'])
                    .to_owned(),
            )
        };
        let l4t = text("etc/nv_tegra_release").and_then(|t| L4t::parse(&t));
        let power_modes = text("etc/nvpmodel.conf").map_or_else(Vec::new, |t| power_modes(&t));
        let name_of = |number: u32| {
            let mode = power_modes.iter().find(|(n, _)| *n == number);
            mode.map(|(_, name)| name.clone())
        };
        let power_mode = match text("var/lib/nvpmodel/status").and_then(|t| power_mode_of_status(&t)) {
            Some(number) => Some(PowerMode {
                number: Some(number),
                name: name_of(number),
            }),
            None if l4t.is_some() && root == Path::new("/") => {
                let query = std::process::Command::new("nvpmodel").arg("-q").output().ok();
                query.and_then(|out| power_mode_of_query(&String::from_utf8_lossy(&out.stdout)))
            }
            None => None,
        };
        Self {
            model: text("proc/device-tree/model").filter(|model| !model.is_empty()),
            l4t,
            power_mode,
            power_modes,
        }
    }

    /// Whether it is a Jetson.
    pub fn is_jetson(&self) -> bool {
        self.l4t.is_some() || self.model.as_ref().is_some_and(|m| m.contains("Jetson"))
    }

    /// Whether it is a Raspberry Pi.
    pub fn is_raspberry_pi(&self) -> bool {
        self.model.as_ref().is_some_and(|m| m.contains("Raspberry Pi"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_as_boards_have_them() {
        for (text, release, jetpack) in [
            (
                "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n\
                 # KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\nTARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n",
                "36.4.3",
                "6.2",
            ),
            (
                "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64, DATE: Fri Jul 19 23:24:25 UTC 2024",
                "36.3.0",
                "6.0",
            ),
            (
                "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023",
                "35.4.1",
                "5.1.2",
            ),
            (
                "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: Sat Feb 19 17:05:08 UTC 2022",
                "32.7.1",
                "4.6.1",
            ),
            (
                "# R36 (release), REVISION: 9, GCID: 1, BOARD: generic, EABI: aarch64, DATE: later",
                "36.9.0",
                "6",
            ),
        ] {
            let l4t = L4t::parse(text).unwrap();
            assert_eq!(
                (l4t.to_string().as_str(), l4t.jetpack()),
                (release, Some(jetpack))
            );
        }
        for text in [
            "",
            "R36",
            "# R36 (release), REVISION: x.1",
            "# Rx, REVISION: 4.3,",
            "REVISION:",
        ] {
            assert_eq!(L4t::parse(text), None, "{text}");
        }
        let unknown = L4t {
            major: 99,
            minor: 0,
            patch: 0,
        };
        assert_eq!(unknown.jetpack(), None);
    }

    #[test]
    fn power_modes_as_nvpmodel_tells_them() {
        let mode = |text: &str| power_mode_of_query(text).map(|mode| mode.to_string());
        assert_eq!(mode("NV Power Mode: MAXN\n0\n").as_deref(), Some("MAXN (mode 0)"));
        assert_eq!(
            mode("NVPM WARN: fan mode is not set!\nNV Power Mode: 5W\n1\n").as_deref(),
            Some("5W (mode 1)")
        );
        assert_eq!(
            mode("NV Fan Mode:quiet\nNV Power Mode: 15W\n2\n").as_deref(),
            Some("15W (mode 2)")
        );
        assert_eq!(mode("NV Power Mode: 25W").as_deref(), Some("25W"));
        assert_eq!(mode("nvpmodel: command not found"), None);
        assert_eq!(power_mode_of_status("pmode:0002 fmode:quiet"), Some(2));
        assert_eq!(power_mode_of_status("pmode:0000"), Some(0));
        assert_eq!(power_mode_of_status("fmode:quiet"), None);
        let conf = "# comment\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n\n\
                    < POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >\n";
        assert_eq!(
            power_modes(conf),
            [(0, "15W".to_owned()), (2, "MAXN_SUPER".to_owned())]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(# R[0-9]{0,12})?.{0,30}(REVISION:|NV Power Mode:|pmode:|< POWER_MODEL ID=).{0,30}\n?.{0,10}") {
            let _ = (L4t::parse(&text), power_mode_of_query(&text), power_mode_of_status(&text), power_modes(&text));
        }
    }

    #[test]
    fn a_board_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(Board::read_below(root.path()), Board::default());
        assert!(!Board::default().is_jetson());
        write(
            "proc/device-tree/model",
            "NVIDIA Jetson Orin Nano Developer Kit\0",
        );
        write(
            "etc/nv_tegra_release",
            "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic",
        );
        write("etc/nvpmodel.conf", "< POWER_MODEL ID=1 NAME=25W >\n");
        write("var/lib/nvpmodel/status", "pmode:0001 fmode:quiet\n");
        let board = Board::read_below(root.path());
        assert!(board.is_jetson() && !board.is_raspberry_pi());
        assert_eq!(
            board.model.as_deref(),
            Some("NVIDIA Jetson Orin Nano Developer Kit")
        );
        assert_eq!(board.power_mode.unwrap().to_string(), "25W (mode 1)");
    }
}
