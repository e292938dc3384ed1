//! Names of classes: as exporters write them, and those that everybody knows.

use crate::model::contract::Class;

/// The classes of COCO that are things, in the order of networks that count 80; with the numbers of those that count 91.
const COCO: [(&str, usize); 80] = [
    ("person", 1),
    ("bicycle", 2),
    ("car", 3),
    ("motorcycle", 4),
    ("airplane", 5),
    ("bus", 6),
    ("train", 7),
    ("truck", 8),
    ("boat", 9),
    ("traffic light", 10),
    ("fire hydrant", 11),
    ("stop sign", 13),
    ("parking meter", 14),
    ("bench", 15),
    ("bird", 16),
    ("cat", 17),
    ("dog", 18),
    ("horse", 19),
    ("sheep", 20),
    ("cow", 21),
    ("elephant", 22),
    ("bear", 23),
    ("zebra", 24),
    ("giraffe", 25),
    ("backpack", 27),
    ("umbrella", 28),
    ("handbag", 31),
    ("tie", 32),
    ("suitcase", 33),
    ("frisbee", 34),
    ("skis", 35),
    ("snowboard", 36),
    ("sports ball", 37),
    ("kite", 38),
    ("baseball bat", 39),
    ("baseball glove", 40),
    ("skateboard", 41),
    ("surfboard", 42),
    ("tennis racket", 43),
    ("bottle", 44),
    ("wine glass", 46),
    ("cup", 47),
    ("fork", 48),
    ("knife", 49),
    ("spoon", 50),
    ("bowl", 51),
    ("banana", 52),
    ("apple", 53),
    ("sandwich", 54),
    ("orange", 55),
    ("broccoli", 56),
    ("carrot", 57),
    ("hot dog", 58),
    ("pizza", 59),
    ("donut", 60),
    ("cake", 61),
    ("chair", 62),
    ("couch", 63),
    ("potted plant", 64),
    ("bed", 65),
    ("dining table", 67),
    ("toilet", 70),
    ("tv", 72),
    ("laptop", 73),
    ("mouse", 74),
    ("remote", 75),
    ("keyboard", 76),
    ("cell phone", 77),
    ("microwave", 78),
    ("oven", 79),
    ("toaster", 80),
    ("sink", 81),
    ("refrigerator", 82),
    ("book", 84),
    ("clock", 85),
    ("vase", 86),
    ("scissors", 87),
    ("teddy bear", 88),
    ("hair drier", 89),
    ("toothbrush", 90),
];

/// Other names of things in widely used data.
const MORE_THINGS: [&str; 14] = [
    "rider",
    "motorbike",
    "aeroplane",
    "sofa",
    "tvmonitor",
    "tv monitor",
    "pottedplant",
    "diningtable",
    "caravan",
    "trailer",
    "pedestrian",
    "cyclist",
    "van",
    "animal",
];

/// COCO's 80 things.
pub(super) fn coco_80() -> Vec<String> {
    COCO.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// COCO's things by the numbers of networks that count 91, the background and numbers without a class included.
pub(super) fn coco_91() -> Vec<String> {
    let name = |number: usize| match COCO.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => (*name).to_owned(),
        None if number == 0 => "background".to_owned(),
        None => format!("unused {number}"),
    };
    (0..91).map(name).collect()
}

/// Whether a class of this name can be counted, as far as widely used data goes.
pub fn is_thing(name: &str) -> bool {
    let name = name.to_lowercase().replace(['_', '-'], " ");
    COCO.iter().any(|(known, _)| *known == name) || MORE_THINGS.contains(&name.as_str())
}

/// Whether a name is that of what is nothing else.
pub(super) fn is_background(name: &str) -> bool {
    let name = name.to_lowercase().replace(['_', '-'], "");
    matches!(
        name.as_str(),
        "background" | "nothing" | "void" | "other" | "unlabeled" | "unlabelled"
    )
}

/// Names of classes from a file: one a line; empty lines at the end do not count.
pub fn read_names(text: &str) -> Vec<String> {
    text.trim_end()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

/// `{0: 'person', 1: "it's"}`, as Python prints a dictionary, or a list of texts; `None` for anything else. Names stand in
/// the order of their numbers, which are 0 to n - 1.
pub(super) fn python_names(text: &str) -> Option<Vec<String>> {
    const MOST: usize = 256;
    let mut rest = text.trim();
    let is_map = rest.starts_with('{');
    let close = if is_map { '}' } else { ']' };
    rest = rest.strip_prefix(if is_map { '{' } else { '[' })?.trim_start();
    let mut names: Vec<Option<String>> = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(close) {
            return match after.trim().is_empty() {
                true => names.into_iter().collect(),
                false => None,
            };
        }
        let number = if is_map {
            let (number, after) = rest.split_once(':')?;
            rest = after.trim_start();
            number.trim().trim_matches(['\'', '"']).parse::<usize>().ok()?
        } else {
            names.len()
        };
        let (name, after) = python_text(rest)?;
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        if number >= MOST {
            return None;
        }
        if number >= names.len() {
            names.resize(number + 1, None);
        }
        names[number] = Some(name);
    }
}

/// A text in quotes that `text` begins with, and what follows it.
fn python_text(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut name = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.push(letters.next()?.1),
            c if c == quote => return Some((name, &text[at + c.len_utf8()..])),
            c => name.push(c),
        }
    }
    None
}

/// Classes of these names, with colours that are far apart. The first is the background if `background` says so; things
/// are those that `thing` says.
pub(super) fn classes(names: &[String], background: bool, thing: impl Fn(usize, &str) -> bool) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let is_background = background && number == 0;
        // No class may be called as another.
        let mut name = if name.is_empty() {
            format!("class {number}")
        } else {
            name.clone()
        };
        if classes.iter().any(|class| class.name == name) {
            name = format!("{name} {number}");
        }
        classes.push(Class {
            color: if is_background { [0; 3] } else { color(number) },
            background: is_background,
            thing: !is_background && thing(number, &name),
            name,
        });
    }
    classes
}

/// VOC's palette: three bits of the number a round, from the highest bit down.
fn color(number: usize) -> [u8; 3] {
    let mut color = [0_u8; 3];
    for bit in 0..8 {
        for (channel, value) in color.iter_mut().enumerate() {
            *value |= ((number >> (3 * bit + channel) & 1) as u8) << (7 - bit);
        }
    }
    color
}
