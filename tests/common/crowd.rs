//! Twenty objects that sway, as each kind of network that tells objects apart would give them for a picture of 640x480.

#![allow(dead_code, reason = "each test file uses its part")]

use vision::model::Contract;
use vision::tensor::{Elements, InputSize, Outputs, Placement};

/// The picture, and the networks' input.
pub const SIZE: InputSize = InputSize {
    width: 640,
    height: 480,
};
/// All of the input.
pub const EVERYWHERE: Placement = Placement {
    x: 0,
    y: 0,
    width: SIZE.width,
    height: SIZE.height,
};
/// Objects of a picture.
pub const OBJECTS: usize = 20;
/// Cells of masks, at a quarter of the input's sides.
const COLUMNS: usize = SIZE.width / 4;
const ROWS: usize = SIZE.height / 4;
const CELLS: usize = COLUMNS * ROWS;
/// Numbers between which planes that no object has lie.
const NOISE: f32 = 0.05;

/// A kind of network: what its contract says of the output, and what it gives at a step.
pub struct Kind {
    /// For people.
    pub name: &'static str,
    output: &'static str,
    things: usize,
    stuff: usize,
    give: fn(usize, &mut Outputs),
}

/// All kinds, at the sizes that networks have.
pub const KINDS: [Kind; 9] = [
    Kind {
        name: "prototypes, 6300 candidates",
        output: "kind = \"prototypes\"\nnms = 0.5\nscore = 0.25\ntensors = [{ role = \"detections\", name = \"a\" }, \
                 { role = \"prototypes\", name = \"b\" }]",
        things: 80,
        stuff: 0,
        give: candidates,
    },
    Kind {
        name: "prototypes, picked",
        output: "kind = \"prototypes\"\ndetections = \"best-class\"\nscore = 0.25\ntensors = [{ role = \"detections\", name = \"a\" }, \
                 { role = \"prototypes\", name = \"b\" }]",
        things: 80,
        stuff: 0,
        give: picked,
    },
    Kind {
        name: "kernels",
        output: "kind = \"prototypes\"\nmatrix_nms = 2.0\nscore = 0.3\ntensors = [{ role = \"scores\", name = \"a\" }, \
                 { role = \"coefficients\", name = \"b\" }, { role = \"prototypes\", name = \"c\" }]",
        things: 80,
        stuff: 0,
        give: kernels,
    },
    Kind {
        name: "boxes-masks",
        output: "kind = \"boxes-masks\"\ntensors = [{ role = \"boxes\", name = \"a\" }, { role = \"scores\", name = \"b\" }, \
                 { role = \"classes\", name = \"c\" }, { role = \"masks\", name = \"d\" }]",
        things: 80,
        stuff: 0,
        give: boxes_masks,
    },
    Kind {
        name: "queries, panoptic",
        output: "kind = \"queries\"\nactivation = \"softmax\"\nreading = \"panoptic\"\ntensors = [{ role = \"scores\", name = \"a\" }, \
                 { role = \"masks\", name = \"b\" }]",
        things: 80,
        stuff: 53,
        give: panoptic,
    },
    Kind {
        name: "queries, instance",
        output: "kind = \"queries\"\nactivation = \"sigmoid\"\nreading = \"instance\"\nmask_quality = false\n\
                 tensors = [{ role = \"scores\", name = \"a\" }, { role = \"masks\", name = \"b\" }]",
        things: 91,
        stuff: 0,
        give: instance,
    },
    Kind {
        name: "centers",
        output: "kind = \"centers\"\nscore = 0.1\ntensors = [{ role = \"logits\", name = \"a\" }, { role = \"heat\", name = \"b\" }, \
                 { role = \"offsets\", name = \"c\" }]",
        things: 8,
        stuff: 11,
        give: centers,
    },
    Kind {
        name: "boxes",
        output: "kind = \"boxes\"\nnms = 0.6\nscore = 0.1\ndetections = \"objectness\"\nboxes = \"cells\"\n\
                 tensors = [{ role = \"logits\", name = \"a\" }, { role = \"detections\", name = \"b\" }]",
        things: 8,
        stuff: 11,
        give: classes_boxes,
    },
    Kind {
        name: "regions",
        output: "kind = \"logits\"\nregions = true",
        things: OBJECTS,
        stuff: 0,
        give: regions,
    },
];

impl Kind {
    /// The contract: a background, things, then stuff.
    pub fn contract(&self) -> Contract {
        let class = |number: usize| {
            let rest = match number {
                0 => "background = true",
                n if n <= self.things => "thing = true",
                _ => "",
            };
            format!("[[classes]]\nname = \"class {number}\"\ncolor = [9, 9, 9]\n{rest}\n")
        };
        let classes: String = (0..=self.things + self.stuff).map(class).collect();
        let text = format!(
            "format = 2\nname = \"crowd\"\n[input]\nlayout = \"nchw\"\ndtype = \"f32\"\ncolor = \"rgb\"\nresize = \"stretch\"\n\
             width = {}\nheight = {}\n[output]\n{}\n{classes}[[files]]\npath = \"crowd.onnx\"\nprecision = \"fp32\"\n\
             backends = [\"tract\"]\nsha256 = \"{}\"\n",
            SIZE.width,
            SIZE.height,
            self.output,
            "0".repeat(64)
        );
        Contract::parse(&text, self.name).expect("the kinds are valid")
    }

    /// Writes what the network gives at `step`.
    pub fn give(&self, step: usize, outputs: &mut Outputs) {
        (self.give)(step, outputs);
    }
}

/// Left, top, width, height of object `n` in pixels: five a row, wide enough to touch now and then.
fn place(n: usize, step: usize) -> [f32; 4] {
    let sway = (step as f32 * 0.4 + n as f32).sin() * 10.0;
    let (column, row) = ((n % 5) as f32, (n / 5) as f32);
    [20.0 + 124.0 * column + sway, 14.0 + 116.0 * row, 100.0, 96.0]
}

fn class(n: usize) -> usize {
    n % 4
}

fn score(n: usize) -> f32 {
    0.95 - 0.01 * n as f32
}

/// Whether a cell's centre lies in the ellipse of object `n`.
fn covers(n: usize, step: usize, cell: usize) -> bool {
    let [left, top, width, height] = place(n, step);
    let axis =
        |at: usize, low: f32, length: f32| ((at as f32 + 0.5) * 4.0 - low - length / 2.0) / (length / 2.0);
    axis(cell % COLUMNS, left, width).powi(2) + axis(cell / COLUMNS, top, height).powi(2) <= 1.0
}

/// Numbers that look like noise, of at most `NOISE`.
fn noise(at: usize) -> f32 {
    let mixed = (at as u32 ^ (at as u32 >> 7)).wrapping_mul(2_654_435_761);
    ((mixed >> 8) as f32 / (1 << 23) as f32 - 1.0) * NOISE
}

/// Planes of which the first are objects, 1 inside and -1 outside, and the others noise.
fn planes(count: usize, step: usize, scale: f32) -> Vec<f32> {
    let value = |at: usize| {
        let (plane, cell) = (at / CELLS, at % CELLS);
        match plane < OBJECTS {
            true if covers(plane, step, cell) => scale,
            true => -scale,
            false => noise(at) - scale,
        }
    };
    (0..count * CELLS).map(value).collect()
}

/// 32 prototypes, of which the first is 1 everywhere: masks fill their boxes, less what noise takes.
fn prototypes() -> Vec<f32> {
    (0..32 * CELLS)
        .map(|at| if at < CELLS { 1.0 } else { noise(at) })
        .collect()
}

fn candidates(step: usize, outputs: &mut Outputs) {
    const ROWS_OF: usize = 6300;
    const FIELDS: usize = 4 + 80 + 32;
    let mut numbers = vec![0.0; FIELDS * ROWS_OF];
    for row in 0..ROWS_OF {
        // Five candidates for each object.
        let n = row % (ROWS_OF / 5) % OBJECTS;
        let is_one = row % (ROWS_OF / 5) < OBJECTS;
        let [left, top, width, height] = place(n, step);
        let off = (row / (ROWS_OF / 5)) as f32;
        let fields = [left + width / 2.0 + off, top + height / 2.0, width, height];
        for (field, value) in fields.into_iter().enumerate() {
            numbers[field * ROWS_OF + row] = value;
        }
        for label in 0..80 {
            numbers[(4 + label) * ROWS_OF + row] = noise(row * 80 + label).abs() * 0.1;
        }
        if is_one {
            numbers[(4 + class(n)) * ROWS_OF + row] = score(n) - 0.05 * off;
        }
        for mask in 0..32 {
            numbers[(84 + mask) * ROWS_OF + row] = if mask == 0 { 2.0 } else { 1.0 };
        }
    }
    outputs.write(0, "a", &[1, FIELDS, ROWS_OF], Elements::F32(&numbers));
    outputs.write(1, "b", &[1, 32, ROWS, COLUMNS], Elements::F32(&prototypes()));
}

fn picked(step: usize, outputs: &mut Outputs) {
    const FIELDS: usize = 6 + 32;
    let mut numbers = vec![0.0; 300 * FIELDS];
    for (n, row) in numbers.chunks_exact_mut(FIELDS).enumerate() {
        let [left, top, width, height] = place(n % OBJECTS, step);
        let sure = if n < OBJECTS { score(n) } else { 0.01 };
        let own = [
            left,
            top,
            left + width,
            top + height,
            sure,
            class(n % OBJECTS) as f32,
            2.0,
        ];
        row[..7].copy_from_slice(&own);
        row[7..].fill(1.0);
    }
    outputs.write(0, "a", &[1, 300, FIELDS], Elements::F32(&numbers));
    outputs.write(1, "b", &[1, 32, ROWS, COLUMNS], Elements::F32(&prototypes()));
}

fn kernels(step: usize, outputs: &mut Outputs) {
    const GRIDS: usize = 3872;
    const FEATURES: usize = 128;
    let mut scores = vec![0.01; GRIDS * 80];
    let mut kernels = vec![0.0; GRIDS * FEATURES];
    // Three cells of the grids see each object.
    for row in 0..3 * OBJECTS {
        let n = row % OBJECTS;
        scores[row * 80 + class(n)] = score(n) - 0.1 * (row / OBJECTS) as f32;
        kernels[row * FEATURES + n] = 6.0;
        kernels[row * FEATURES + OBJECTS + row] = 1.0;
    }
    outputs.write(0, "a", &[1, GRIDS, 80], Elements::F32(&scores));
    outputs.write(1, "b", &[1, GRIDS, FEATURES], Elements::F32(&kernels));
    let features = planes(FEATURES, step, 1.0);
    outputs.write(2, "c", &[1, FEATURES, ROWS, COLUMNS], Elements::F32(&features));
}

fn boxes_masks(step: usize, outputs: &mut Outputs) {
    const SIDE: usize = 28;
    let corners = |n: usize| {
        let [left, top, width, height] = place(n, step);
        [left, top, left + width, top + height]
    };
    let boxes: Vec<f32> = (0..OBJECTS).flat_map(corners).collect();
    let scores: Vec<f32> = (0..OBJECTS).map(score).collect();
    let classes: Vec<f32> = (0..OBJECTS).map(|n| class(n) as f32).collect();
    let inside = |at: usize| {
        let axis = |cell: usize| (cell as f32 + 0.5) / SIDE as f32 * 2.0 - 1.0;
        let (x, y) = (axis(at % SIDE), axis(at / SIDE % SIDE));
        (1.6 - (x * x + y * y)).clamp(0.0, 1.0)
    };
    let masks: Vec<f32> = (0..OBJECTS * SIDE * SIDE).map(inside).collect();
    outputs.write(0, "a", &[OBJECTS, 4], Elements::F32(&boxes));
    outputs.write(1, "b", &[OBJECTS], Elements::F32(&scores));
    outputs.write(2, "c", &[OBJECTS], Elements::F32(&classes));
    outputs.write(3, "d", &[OBJECTS, 1, SIDE, SIDE], Elements::F32(&masks));
}

fn panoptic(step: usize, outputs: &mut Outputs) {
    const QUERIES: usize = 100;
    const FIELDS: usize = 134;
    let mut scores = vec![0.0; QUERIES * FIELDS];
    for (n, row) in scores.chunks_exact_mut(FIELDS).enumerate() {
        let label = match n {
            n if n < OBJECTS => class(n),
            // Sky above, road below.
            n if n < OBJECTS + 2 => 80 + n - OBJECTS,
            _ => FIELDS - 1,
        };
        row[label] = 9.0 - 0.02 * n as f32;
    }
    let mut masks = planes(QUERIES, step, 4.0);
    for (half, plane) in masks.chunks_exact_mut(CELLS).skip(OBJECTS).take(2).enumerate() {
        for (cell, value) in plane.iter_mut().enumerate() {
            let is_there = cell * 2 / CELLS == half && (0..OBJECTS).all(|n| !covers(n, step, cell));
            *value = if is_there { 4.0 } else { -4.0 };
        }
    }
    outputs.write(0, "a", &[1, QUERIES, FIELDS], Elements::F32(&scores));
    outputs.write(1, "b", &[1, QUERIES, ROWS, COLUMNS], Elements::F32(&masks));
}

fn instance(step: usize, outputs: &mut Outputs) {
    const QUERIES: usize = 200;
    const FIELDS: usize = 91;
    let mut scores = vec![-6.0; QUERIES * FIELDS];
    for n in 0..OBJECTS {
        scores[n * FIELDS + class(n)] = 3.0 - 0.1 * n as f32;
    }
    outputs.write(0, "a", &[1, QUERIES, FIELDS], Elements::F32(&scores));
    let masks = planes(QUERIES, step, 4.0);
    outputs.write(1, "b", &[1, QUERIES, ROWS, COLUMNS], Elements::F32(&masks));
}

/// The classes of objects, and two kinds of stuff behind them: `[1, 20, ROWS, COLUMNS]`.
fn logits(step: usize) -> Vec<f32> {
    let mut logits = vec![0.0; 20 * CELLS];
    for cell in 0..CELLS {
        let owner = (0..OBJECTS).find(|&n| covers(n, step, cell));
        let label = owner.map_or(9 + cell * 2 / CELLS, |n| 1 + class(n));
        logits[label * CELLS + cell] = 5.0;
    }
    logits
}

fn centers(step: usize, outputs: &mut Outputs) {
    const CLASSES: usize = 20;
    let logits = logits(step);
    let (mut heat, mut offsets) = (vec![0.0; CELLS], vec![0.0; 2 * CELLS]);
    for cell in 0..CELLS {
        if let Some(n) = (0..OBJECTS).find(|&n| covers(n, step, cell)) {
            let [left, top, width, height] = place(n, step);
            let (x, y) = ((cell % COLUMNS) as f32 * 4.0, (cell / COLUMNS) as f32 * 4.0);
            offsets[cell] = top + height / 2.0 - y;
            offsets[CELLS + cell] = left + width / 2.0 - x;
        }
    }
    for n in 0..OBJECTS {
        let [left, top, width, height] = place(n, step);
        let (x, y) = (
            (left + width / 2.0) as usize / 4,
            (top + height / 2.0) as usize / 4,
        );
        heat[y * COLUMNS + x] = score(n);
    }
    outputs.write(0, "a", &[1, CLASSES, ROWS, COLUMNS], Elements::F32(&logits));
    outputs.write(1, "b", &[1, 1, ROWS, COLUMNS], Elements::F32(&heat));
    outputs.write(2, "c", &[1, 2, ROWS, COLUMNS], Elements::F32(&offsets));
}

/// The classes of [`centers`], and each object's box at the cell of stride 8 that holds its middle.
fn classes_boxes(step: usize, outputs: &mut Outputs) {
    const CLASSES: usize = 20;
    const FIELDS: usize = 5 + CLASSES - 1;
    let logits = logits(step);
    let cells = |stride: usize| SIZE.width.div_ceil(stride) * SIZE.height.div_ceil(stride);
    let rows = cells(8) + cells(16) + cells(32);
    let mut detections = vec![0.0; rows * FIELDS];
    for n in 0..OBJECTS {
        let [left, top, width, height] = place(n, step);
        let (x, y) = ((left + width / 2.0) / 8.0, (top + height / 2.0) / 8.0);
        let cell = y as usize * SIZE.width.div_ceil(8) + x as usize;
        let row = &mut detections[cell * FIELDS..][..FIELDS];
        row[..4].copy_from_slice(&[x.fract(), y.fract(), (width / 8.0).ln(), (height / 8.0).ln()]);
        row[4] = 1.0;
        row[5 + class(n)] = score(n);
    }
    outputs.write(0, "a", &[1, CLASSES, ROWS, COLUMNS], Elements::F32(&logits));
    outputs.write(1, "b", &[1, rows, FIELDS], Elements::F32(&detections));
}

/// Each object is of a class of its own, so that those that touch stay apart.
fn regions(step: usize, outputs: &mut Outputs) {
    const CLASSES: usize = 1 + OBJECTS;
    let mut logits = vec![0.0; CLASSES * CELLS];
    for cell in 0..CELLS {
        let owner = (0..OBJECTS).find(|&n| covers(n, step, cell));
        logits[owner.map_or(0, |n| 1 + n) * CELLS + cell] = 5.0;
    }
    outputs.write(0, "a", &[1, CLASSES, ROWS, COLUMNS], Elements::F32(&logits));
}
