//! Boxes drawn by hand, in PASCAL VOC's XML.
//!
//! VOC counts pixels from 1, and a box's last pixel belongs to it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use roxmltree::{Document, Node};
use vision::dataset::VOC_CLASSES;
use vision::dataset::objects::usual_name;

/// A box of an annotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boxed {
    /// Its class, of VOC's 21.
    pub class: u8,
    /// Left, top, right, bottom in pixels, the last two one past it; within the picture.
    pub bounds: [f32; 4],
    /// Who drew it called it difficult.
    pub difficult: bool,
}

/// The boxes of the file `path`, in its order, for a picture of `size`, width and height in pixels.
///
/// # Errors
/// The file can't be read, is no annotation, is for a picture of another size, or holds a class or a box that is none. The
/// message names the file and the object, counted from 1.
pub fn read_boxes(path: &Path, size: [usize; 2]) -> Result<Vec<Boxed>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text, size).with_context(|| path.display().to_string())
}

fn parse(text: &str, size: [usize; 2]) -> Result<Vec<Boxed>> {
    let document = Document::parse(text).context("is no XML")?;
    let root = document.root_element();
    ensure!(
        root.has_tag_name("annotation"),
        "begins with <{}>, expected <annotation>",
        root.tag_name().name()
    );
    if let Some(said) = child(root, "size") {
        let said = [number(said, "width")?, number(said, "height")?];
        ensure!(
            said == size.map(|side| side as f32),
            "is for a picture of {}x{}, its picture is {}x{}",
            said[0],
            said[1],
            size[0],
            size[1]
        );
    }
    root.children()
        .filter(|node| node.has_tag_name("object"))
        .enumerate()
        .map(|(index, object)| boxed(object, size).with_context(|| format!("object {}", index + 1)))
        .collect()
}

fn boxed(object: Node, [width, height]: [usize; 2]) -> Result<Boxed> {
    let name = child(object, "name")
        .and_then(|node| node.text())
        .context("has no <name>")?
        .trim();
    let usual = usual_name(name);
    let class = VOC_CLASSES
        .iter()
        .skip(1)
        .position(|class| usual_name(&class.name) == usual)
        .with_context(|| format!("is called {name:?}, which is none of VOC's classes"))?;
    let node = child(object, "bndbox").context("has no <bndbox>")?;
    let [left, top, right, bottom] = ["xmin", "ymin", "xmax", "ymax"].map(|side| number(node, side));
    let (left, top, right, bottom) = (left? - 1.0, top? - 1.0, right?, bottom?);
    // Boxes that were scaled with their pictures may end a fraction of a pixel outside.
    let bounds = [
        left.max(0.0),
        top.max(0.0),
        right.min(width as f32),
        bottom.min(height as f32),
    ];
    if bounds[0] >= bounds[2] || bounds[1] >= bounds[3] {
        bail!(
            "has the box {left} {top} {right} {bottom}, which holds nothing of a picture of {width}x{height}"
        );
    }
    let difficult = match child(object, "difficult")
        .and_then(|node| node.text())
        .map(str::trim)
    {
        None | Some("0") => false,
        Some("1") => true,
        Some(other) => bail!("<difficult> is {other:?}, expected 0 or 1"),
    };
    Ok(Boxed {
        class: class as u8 + 1,
        bounds,
        difficult,
    })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn number(node: Node, name: &str) -> Result<f32> {
    let text = child(node, name)
        .and_then(|node| node.text())
        .with_context(|| format!("has no <{name}>"))?;
    let value: f32 = text
        .trim()
        .parse()
        .with_context(|| format!("<{name}> is {text:?}, expected a number"))?;
    ensure!(value.is_finite(), "<{name}> is {text:?}, expected a number");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, sides: [&str; 4], difficult: &str) -> String {
        let [left, top, right, bottom] = sides;
        format!(
            "<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name>\
             <difficult>{difficult}</difficult><part><name>head</name></part><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>\
             <xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>"
        )
    }

    #[test]
    fn boxes_begin_at_1_and_end_with_their_last_pixel() {
        let boxes = parse(&file("tvmonitor", ["1", "11", "40.6", "20"], "1"), [40, 30]).unwrap();
        let expected = Boxed {
            class: 20,
            bounds: [0.0, 10.0, 40.0, 20.0],
            difficult: true,
        };
        assert_eq!(boxes, [expected]);
        assert_eq!(parse("<annotation/>", [40, 30]).unwrap(), []);
    }

    #[test]
    fn what_is_no_annotation_is_refused() {
        let good = ["1", "1", "9", "9"];
        for (text, part) in [
            ("<annotation>".to_owned(), "no XML"),
            ("<labels/>".to_owned(), "expected <annotation>"),
            (file("unicorn", good, "0"), "object 1: is called \"unicorn\""),
            (file("car", ["9", "1", "8", "9"], "0"), "holds nothing"),
            (file("car", ["50", "1", "60", "9"], "0"), "holds nothing"),
            (file("car", ["x", "1", "9", "9"], "0"), "<xmin> is \"x\""),
            (file("car", ["nan", "1", "9", "9"], "0"), "<xmin> is \"nan\""),
            (file("car", good, "maybe"), "<difficult> is \"maybe\""),
            (file("car", good, "0").replace("bndbox", "box"), "no <bndbox>"),
        ] {
            let message = format!("{:#}", parse(&text, [40, 30]).unwrap_err());
            assert!(message.contains(part), "{message}");
        }
        let message = format!("{:#}", parse(&file("car", good, "0"), [30, 40]).unwrap_err());
        assert!(message.contains("for a picture of 40x30"), "{message}");
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("000007.xml");
        let message = format!("{:#}", read_boxes(&path, [40, 30]).unwrap_err());
        assert!(message.contains("000007.xml"), "{message}");
        std::fs::write(&path, "<a").unwrap();
        let message = format!("{:#}", read_boxes(&path, [40, 30]).unwrap_err());
        assert!(message.contains("000007.xml"), "{message}");
    }
}
