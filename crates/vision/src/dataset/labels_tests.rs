use super::*;
use std::fs::File;
use std::path::PathBuf;

fn write_png(path: &Path, color: png::ColorType, depth: png::BitDepth, size: (u32, u32), bytes: &[u8]) {
    let mut encoder = png::Encoder::new(File::create(path).unwrap(), size.0, size.1);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        // A palette that would change every number if it were applied.
        encoder.set_palette((0..768).map(|i| (i % 251) as u8 ^ 0x5a).collect::<Vec<u8>>());
    }
    encoder.write_header().unwrap().write_image_data(bytes).unwrap();
}

#[test]
fn palette_indices_are_read_without_the_palette() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    write_png(
        &path,
        png::ColorType::Indexed,
        png::BitDepth::Eight,
        (3, 2),
        &[0, 15, 255, 1, 2, 20],
    );
    let labels = read_index_png(&path).unwrap();
    assert_eq!((labels.width, labels.height), (3, 2));
    assert_eq!(labels.data, [0, 15, 255, 1, 2, 20]);
}

#[test]
fn packed_indices_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    // Three pixels of four bits a row: the last half byte is padding.
    write_png(
        &path,
        png::ColorType::Indexed,
        png::BitDepth::Four,
        (3, 2),
        &[0x1f, 0x20, 0x03, 0x40],
    );
    assert_eq!(read_index_png(&path).unwrap().data, [1, 15, 2, 0, 3, 4]);
    write_png(
        &path,
        png::ColorType::Grayscale,
        png::BitDepth::One,
        (9, 1),
        &[0b1010_0001, 0b1000_0000],
    );
    assert_eq!(read_index_png(&path).unwrap().data, [1, 0, 1, 0, 0, 0, 0, 1, 1]);
}

#[test]
fn a_cut_png_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    write_png(
        &path,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
        (64, 64),
        &[7; 64 * 64],
    );
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 8, 20, bytes.len() / 2, bytes.len() - 13] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(read_index_png(&path).is_err(), "{length} bytes");
    }
}

#[test]
fn nearest_takes_pixel_centres() {
    let labels = Labels {
        width: 2,
        height: 2,
        data: vec![1, 2, 3, 4],
    };
    assert_eq!(
        labels.resize_nearest(4, 4).data,
        [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
    );
    assert_eq!(labels.resize_nearest(4, 4).resize_nearest(2, 2), labels);
    assert_eq!(labels.resize_nearest(1, 1).data, [4]);
}

/// A file of `bytes` pixels in a fresh folder.
fn png(
    color: png::ColorType,
    depth: png::BitDepth,
    size: (u32, u32),
    bytes: &[u8],
) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.png");
    write_png(&path, color, depth, size, bytes);
    (dir, path)
}

fn grey(size: (u32, u32), bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    png(png::ColorType::Grayscale, png::BitDepth::Eight, size, bytes)
}

fn encoding(codebook: Codebook) -> LabelEncoding {
    LabelEncoding::Classes(Arc::new(codebook))
}

#[test]
fn numbers_become_classes() {
    let (_dir, path) = grey((6, 1), &[0, 1, 2, 11, 255, 0]);
    let labels = read(&path, &encoding(Codebook::plain(3, &[11]))).unwrap();
    assert_eq!(labels.data, [0, 1, 2, IGNORE, IGNORE, 0]);
}

#[test]
fn a_number_that_is_no_class_is_refused_with_its_place() {
    let (_dir, path) = grey((3, 2), &[0, 1, 2, 0, 7, 0]);
    let message = read(&path, &encoding(Codebook::plain(3, &[11])))
        .unwrap_err()
        .to_string();
    for part in ["labels.png", "number 7", "column 1, row 1", "0 to 2, 11, 255"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn sixteen_bit_numbers_are_read_where_they_fit() {
    let sixteen = |numbers: [u16; 3]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        png(png::ColorType::Grayscale, png::BitDepth::Sixteen, (3, 1), &bytes)
    };
    let (_dir, path) = sixteen([0, 2, 255]);
    assert_eq!(
        read(&path, &encoding(Codebook::plain(3, &[]))).unwrap().data,
        [0, 2, IGNORE]
    );
    let (_dir, path) = sixteen([0, 258, 1]);
    let message = read(&path, &encoding(Codebook::plain(3, &[])))
        .unwrap_err()
        .to_string();
    assert!(message.contains("258"), "{message}");
}

#[test]
fn colours_become_classes_where_they_are_known() {
    let colors = [([10, 20, 30], 0), ([90, 0, 0], 1), ([0, 0, 0], IGNORE)];
    let encoding_of =
        |colors: &[([u8; 3], u8)]| encoding(Codebook::plain(2, &[]).with_colors(colors.to_vec()));
    let (_dir, path) = png(
        png::ColorType::Rgb,
        png::BitDepth::Eight,
        (2, 2),
        &[90, 0, 0, 10, 20, 30, 0, 0, 0, 90, 0, 0],
    );
    assert_eq!(
        read(&path, &encoding_of(&colors)).unwrap().data,
        [1, 0, IGNORE, 1]
    );
    let message = read(&path, &encoding_of(&colors[..2])).unwrap_err().to_string();
    for part in ["labels.png", "[0, 0, 0]", "column 0, row 1"] {
        assert!(message.contains(part), "{message}");
    }
    let message = read(&path, &encoding(Codebook::plain(2, &[])))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("labels.png") && message.contains("colours"),
        "{message}"
    );
}

#[test]
fn masks_of_two_tones() {
    let binary = |bytes: &[u8]| {
        let (_dir, path) = grey((4, 1), bytes);
        read(&path, &LabelEncoding::Binary).map(|labels| labels.data)
    };
    assert_eq!(binary(&[0, 127, 128, 255]).unwrap(), [0, 0, 1, 1]);
    // Classes as numbers.
    assert_eq!(binary(&[0, 1, 1, 0]).unwrap(), [0, 1, 1, 0]);
    assert_eq!(binary(&[0, 0, 0, 0]).unwrap(), [0; 4]);
    let message = binary(&[0, 60, 60, 0]).unwrap_err().to_string();
    assert!(
        message.contains("labels.png") && message.contains("60"),
        "{message}"
    );
}

#[test]
fn a_mask_with_a_dark_palette() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mask.png");
    let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 4, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(vec![0, 0, 0, 128, 0, 0]);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&[0, 1, 1, 0])
        .unwrap();
    assert_eq!(read(&path, &LabelEncoding::Binary).unwrap().data, [0, 1, 1, 0]);
}

#[test]
fn masks_of_sixteen_bits() {
    for (bright, expected) in [(65535u16, [0, 1]), (1, [0, 1]), (2000, [0, 0])] {
        let bytes: Vec<u8> = [0, bright]
            .iter()
            .flat_map(|level: &u16| level.to_be_bytes())
            .collect();
        let (_dir, path) = png(png::ColorType::Grayscale, png::BitDepth::Sixteen, (2, 1), &bytes);
        assert_eq!(
            read(&path, &LabelEncoding::Binary).unwrap().data,
            expected,
            "{bright}"
        );
    }
}

#[test]
fn a_side_that_no_picture_has_is_refused() {
    let (_dir, path) = grey((1, 20_000), &[0; 20_000]);
    let message = read_index_png(&path).unwrap_err().to_string();
    assert!(
        message.contains("is 1x20000") && message.contains("16384"),
        "{message}"
    );
}
