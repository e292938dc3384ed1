//! Training pictures in memory, and the random crops made from them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tch::{Device, Tensor};
use vision::dataset::{IGNORE, Labels, Sample};

use crate::augment::{Augment, Size, crop, paste};
use crate::loss::{ClassStatistics, Loss};
use crate::nets::ObjectForm;
use crate::objects::shown::Shown;
use crate::objects::{Source, targets};
use crate::picture::{Objects, Picture};
use crate::recipe::{Recipe, Train};

/// Reads pictures with `threads` threads; those with a side above `longest` are brought down to it.
///
/// # Errors
/// A file can't be read, or holds a label that is not below `classes`.
pub fn load(
    samples: &[Sample],
    classes: usize,
    longest: usize,
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Picture>> {
    load_with(samples, classes, None, longest, threads, progress)
}

/// As [`load`], with the objects of `source`, if there is one.
///
/// # Errors
/// As [`load`] and [`Source::read`].
pub fn load_with(
    samples: &[Sample],
    classes: usize,
    source: Option<&Source>,
    longest: usize,
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Picture>> {
    let next = AtomicUsize::new(0);
    let pictures = Mutex::new(Vec::with_capacity(samples.len()));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let picture = read(sample, classes).and_then(|(image, labels)| {
                        let objects = source.map(|source| source.read(sample, &labels)).transpose()?;
                        Ok(shrink(image, labels, objects, longest))
                    });
                    match picture {
                        Ok(picture) => {
                            pictures
                                .lock()
                                .expect("no panic")
                                .push((sample.name.clone(), picture));
                            progress.inc(1);
                        }
                        Err(error) => {
                            *failed.lock().expect("no panic") = Some(error);
                            next.store(samples.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner()? {
        return Err(error);
    }
    let mut pictures = pictures.into_inner()?;
    pictures.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(pictures.into_iter().map(|(_, picture)| picture).collect())
}

/// Reads a picture with its labels, all of which must be below `classes` or [`IGNORE`].
///
/// # Errors
/// A file can't be read, or holds another label.
pub fn read(sample: &Sample, classes: usize) -> Result<(image::RgbImage, Labels)> {
    let (image, labels) = sample.load()?;
    let is_good = |&label: &u8| usize::from(label) < classes || label == IGNORE;
    if let Some(bad) = labels.data.iter().find(|label| !is_good(label)) {
        bail!(
            "{}: holds class {bad}, the network has {classes} classes",
            sample.labels.display()
        );
    }
    Ok((image, labels))
}

fn shrink(image: image::RgbImage, labels: Labels, objects: Option<Objects>, longest: usize) -> Picture {
    let (width, height) = (labels.width, labels.height);
    let side = width.max(height);
    if side <= longest {
        return Picture {
            width,
            height,
            rgb: image.into_raw(),
            labels: labels.data,
            objects,
        };
    }
    let scaled = |length: usize| ((length * longest + side / 2) / side).max(1);
    let from = [width, height];
    let (width, height) = (scaled(width), scaled(height));
    let image = image::imageops::resize(
        &image,
        width as u32,
        height as u32,
        image::imageops::FilterType::Triangle,
    );
    Picture {
        width,
        height,
        rgb: image.into_raw(),
        labels: labels.resize_nearest(width, height).data,
        objects: objects.map(|objects| objects.resized(from, [width, height])),
    }
}

/// Crops for one step.
pub struct Batch {
    /// `[count, height, width, 3]`, RGB.
    pub rgb: Vec<u8>,
    /// `[count, height / label_stride, width / label_stride]`
    pub labels: Vec<u8>,
    /// `[count, 5, height / 4, width / 4]` as [`targets`] has them; empty where the network looks for no centres.
    pub targets: Vec<f32>,
    /// The objects of each crop; empty where the network tells none apart.
    pub objects: Vec<Shown>,
}

/// One of the batches of a step.
pub struct Part<'a> {
    /// `[batch, height, width, 3]`, u8.
    pub rgb: Tensor,
    /// `[batch, rows, columns]`, u8.
    pub labels: Tensor,
    /// `[batch, 5, height / 4, width / 4]`, f32, where the network looks for centres.
    pub targets: Option<Tensor>,
    /// The objects of each crop, where the network tells them apart.
    pub objects: &'a [Shown],
}

impl Batch {
    /// The batches of a step.
    pub fn parts<'a>(&'a self, recipe: &Recipe, device: Device) -> impl Iterator<Item = Part<'a>> + 'a {
        let size = recipe.train.batch;
        let (crop, grid) = (recipe.augment.crop, recipe.augment.labels_size());
        let sides = move |size: Size| [size.height as i64, size.width as i64];
        let rgb = self.rgb.chunks_exact(size * crop.area() * 3);
        let labels = self.labels.chunks_exact(size * grid.area());
        let (crop, grid) = (sides(crop), sides(grid));
        let cells = targets::size(&recipe.augment);
        let count = size * targets::PLANES * cells.area();
        rgb.zip(labels).enumerate().map(move |(index, (rgb, labels))| {
            let rgb = Tensor::from_slice(rgb).reshape([size as i64, crop[0], crop[1], 3]);
            let labels = Tensor::from_slice(labels).reshape([size as i64, grid[0], grid[1]]);
            let targets = self
                .targets
                .get(index * count..(index + 1) * count)
                .map(|values| {
                    let [rows, columns] = sides(cells);
                    let shape = [size as i64, targets::PLANES as i64, rows, columns];
                    Tensor::from_slice(values).reshape(shape).to_device(device)
                });
            let objects = self.objects.get(index * size..(index + 1) * size);
            Part {
                rgb: rgb.to_device(device),
                labels: labels.to_device(device),
                targets,
                objects: objects.unwrap_or_default(),
            }
        })
    }
}

/// The recipe's loss, its classes balanced by how often they are seen.
///
/// `order` names each picture as often as it is to be seen in an epoch.
#[must_use]
pub fn loss(pictures: &[Picture], order: &[u32], recipe: &Recipe, device: Device) -> Loss {
    let mut times = vec![0; pictures.len()];
    for &picture in order {
        times[picture as usize] += 1;
    }
    let mut statistics = ClassStatistics::new(recipe.network.classes as usize);
    for (picture, times) in pictures.iter().zip(times) {
        statistics.add(&picture.labels, times);
    }
    Loss::new(&recipe.train.loss, &statistics, device)
}

/// The pictures that objects are pasted from: for each class to paste, those of which it covers a fiftieth or more.
#[derive(Debug, Default)]
pub struct Donors {
    classes: Vec<(u8, Vec<u32>)>,
}

impl Donors {
    /// Looks through the pictures for what the recipe pastes.
    #[must_use]
    pub fn new(pictures: &[Picture], recipe: &Recipe) -> Self {
        let Some(paste) = &recipe.augment.paste else {
            return Self::default();
        };
        let classes = (0u8..).zip(recipe.classes());
        let classes = classes
            .filter(|(_, class)| paste.classes.iter().any(|name| *name == class.name))
            .map(|(class, _)| {
                let shows = |picture: &Picture| {
                    let pixels = picture.labels.iter().filter(|&&label| label == class).count();
                    pixels * 50 >= picture.labels.len()
                };
                let donors = (0..).zip(pictures).filter(|(_, picture)| shows(picture));
                (class, donors.map(|(index, _)| index).collect::<Vec<u32>>())
            })
            .filter(|(_, donors)| !donors.is_empty())
            .collect();
        Self { classes }
    }

    /// Pastes into the recipe's share of the crops.
    fn paste(
        &self,
        pictures: &[Picture],
        augment: &Augment,
        rng: &mut impl Rng,
        (rgb, labels): (&mut [u8], &mut [u8]),
    ) {
        let share = augment.paste.as_ref().map_or(0.0, |paste| paste.share);
        if self.classes.is_empty() || !rng.random_bool(share) {
            return;
        }
        let (class, donors) = &self.classes[rng.random_range(0..self.classes.len())];
        let mut from = (vec![0; rgb.len()], vec![IGNORE; labels.len()]);
        // A crop may miss the object.
        for _ in 0..3 {
            let donor = donors[rng.random_range(0..donors.len())] as usize;
            crop(&pictures[donor], augment, rng, &mut from.0, &mut from.1);
            let found = from.1.iter().filter(|&label| label == class).count();
            if found * 100 >= from.1.len() {
                paste(augment, *class, (&from.0, &from.1), (rgb, labels));
                return;
            }
        }
    }
}

/// The `batch * accumulate` crops of step `step` of the recipe's run: the same for the same arguments.
///
/// `order` names each picture as often as it is to be seen in an epoch.
#[must_use]
pub fn batch(pictures: &[Picture], order: &[u32], donors: &Donors, recipe: &Recipe, step: u64) -> Batch {
    let Train {
        batch,
        accumulate,
        seed,
        ..
    } = recipe.train;
    let (augment, size) = (&recipe.augment, batch * accumulate);
    let (bytes, cells) = (3 * augment.crop.area(), augment.labels_size().area());
    let mut out = Batch {
        rgb: vec![0; size * bytes],
        labels: vec![IGNORE; size * cells],
        targets: Vec::new(),
        objects: Vec::new(),
    };
    let target = targets::PLANES * targets::size(augment).area();
    let form = recipe.object_form().unwrap_or_default();
    if form == Some(ObjectForm::Centers) {
        out.targets.resize(size * target, 0.0);
    }
    let mut shuffled: Option<(u64, Vec<u32>)> = None;
    let pixels = out.rgb.chunks_exact_mut(bytes);
    let labels = out.labels.chunks_exact_mut(cells);
    for (index, (rgb, labels)) in pixels.zip(labels).enumerate() {
        let position = step * size as u64 + index as u64;
        let (epoch, place) = (
            position / order.len() as u64,
            (position % order.len() as u64) as usize,
        );
        if shuffled.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut order = order.to_vec();
            order.shuffle(&mut Pcg64Mcg::seed_from_u64(
                seed ^ (epoch + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ));
            shuffled = Some((epoch, order));
        }
        let picture = shuffled.as_ref().map_or(0, |(_, order)| order[place]) as usize;
        let mut rng = Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ position);
        let picture = &pictures[picture];
        let map = crop(picture, augment, &mut rng, rgb, labels);
        if form.is_some() {
            let shown = match &picture.objects {
                Some(objects) => Shown::new(objects, &map, augment, picture.width, picture.height),
                None => Shown::nothing(augment),
            };
            if let Some(target) = out.targets.get_mut(index * target..(index + 1) * target) {
                targets::write(&shown, augment, target);
            }
            out.objects.push(shown);
        }
        donors.paste(pictures, augment, &mut rng, (rgb, labels));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Paste;
    use crate::recipe;

    /// 64x64 pixels of one class.
    fn plain(class: u8) -> Picture {
        Picture {
            width: 64,
            height: 64,
            rgb: vec![class; 3 * 64 * 64],
            labels: vec![class; 64 * 64],
            objects: None,
        }
    }

    #[test]
    fn rare_classes_are_pasted_from_the_pictures_that_show_them() {
        let chair = 9;
        let pictures = [plain(0), plain(chair)];
        let mut recipe = recipe::named("voc21").unwrap();
        recipe.augment.crop = Size {
            width: 64,
            height: 64,
        };
        recipe.augment.longest = 64.0;
        recipe.augment.color = 0.0;
        let with = |share: f64, class: &str| {
            let mut recipe = recipe.clone();
            recipe.augment.paste = Some(Paste {
                share,
                classes: vec![class.to_owned()],
            });
            recipe.check().unwrap();
            let donors = Donors::new(&pictures, &recipe);
            // Only the picture without a chair is in the epoch.
            let batch = batch(&pictures, &[0], &donors, &recipe, 0);
            let crops = batch.labels.chunks_exact(32 * 32);
            crops.filter(|labels| labels.contains(&chair)).count()
        };
        assert_eq!(with(1.0, "chair"), recipe.train.batch);
        assert_eq!(with(0.0, "chair"), 0);
        // No picture shows one.
        assert_eq!(with(1.0, "sofa"), 0);

        recipe.augment.paste = Some(Paste {
            share: 1.0,
            classes: vec!["chairs".into()],
        });
        let message = recipe.check().unwrap_err().to_string();
        assert!(message.contains("augment.paste.classes") && message.contains("chairs"));
    }
}
