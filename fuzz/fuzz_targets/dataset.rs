//! The tables of data sets are read or refused: classes.toml, train.csv, lists of names.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vision::dataset::{Dataset, Format};

/// A folder in memory, with a picture and its labels for tables to name.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = PathBuf::from("/dev/shm").join(format!("segd-fuzz-{}", std::process::id()));
    for folder in ["images", "labels", "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder in memory");
    }
    for file in ["images/a.jpg", "labels/a.png", "JPEGImages/a.jpg", "SegmentationClass/a.png"] {
        std::fs::write(root.join(file), "").expect("a file in memory");
    }
    root
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let (format, table) = match kind % 3 {
        0 => (Format::Folder, "classes.toml"),
        1 => (Format::Csv, "train.csv"),
        _ => (Format::Voc, "ImageSets/Segmentation/train.txt"),
    };
    std::fs::write(FOLDER.join(table), text).expect("a file in memory");
    let Ok(dataset) = Dataset::open(format, &FOLDER) else { return };
    assert!((2..=255).contains(&dataset.classes.len()));
    if let Ok(samples) = dataset.split("train") {
        assert!(samples.iter().all(|sample| sample.image.is_file()));
    }
});
