//! What the input gate learns from and is measured by: frontal X-rays as they come, and everything else that is made of them, drawn or
//! read. All that is drawn follows from the seed and a name, so that neither threads nor a resume change it.

use candle_core::{Device, Tensor};
use radialog_models::input_gate::SIDE;
use radialog_schemas::ImageKind;
use rayon::prelude::*;

use crate::data::gate_drawings::drawing;
use crate::data::gate_images::GateImage;
use crate::data::gate_views::{View, scrambled};
use crate::error::TrainingError;
use crate::random::Random;

/// Eighths of a batch that are frontal X-rays.
const FRONTAL: usize = 3;
const EIGHTHS: usize = 8;
/// Drawn pictures that a side is measured by.
const DRAWINGS: usize = 500;
/// Further views of each frontal X-ray by which the threshold is chosen.
const VIEWS: usize = 4;

/// The images of a side by what they are.
#[derive(Clone, Debug, Default)]
pub struct GateImages {
    /// The side's name.
    side: String,
    frontal: Vec<GateImage>,
    lateral: Vec<GateImage>,
    other: Vec<GateImage>,
}

/// A batch of pictures is what the gate reads in one pass.
pub struct GateBatch {
    /// `[B, 1, 64, 64]`.
    pub pictures: Tensor,
    /// The place of each one's kind in [`ImageKind::ALL`].
    pub kinds: Vec<u32>,
    /// What errors call them.
    pub names: Vec<String>,
}

/// A picture that the gate is measured by.
#[derive(Clone, Debug)]
pub struct MeasuredPicture {
    /// What it is counted with.
    pub group: String,
    /// What it is.
    pub kind: ImageKind,
    /// The file that it is, or is made of.
    pub name: String,
    /// 64 x 64 levels as the gate reads them.
    pub levels: Vec<f32>,
}

impl GateImages {
    /// Sorts the images of a side.
    ///
    /// # Errors
    /// No frontal image, from which most others are made.
    pub fn of(images: Vec<GateImage>, side: &str) -> Result<Self, TrainingError> {
        let mut pool = Self {
            side: side.to_owned(),
            ..Self::default()
        };
        for image in images {
            match image.kind {
                ImageKind::Frontal => pool.frontal.push(image),
                ImageKind::Lateral => pool.lateral.push(image),
                ImageKind::Turned | ImageKind::Inverted | ImageKind::Other => {
                    pool.other.push(image);
                }
            }
        }
        match pool.frontal.is_empty() {
            true => Err(TrainingError::Empty(format!(
                "no frontal image of the split '{side}' in the tables of the recipe"
            ))),
            false => Ok(pool),
        }
    }

    /// The numbers of frontal, lateral and other images.
    pub fn counts(&self) -> [usize; 3] {
        [&self.frontal, &self.lateral, &self.other].map(Vec::len)
    }

    /// Batches of so many pictures in an epoch that shows each frontal image once.
    pub fn batches_in_epoch(&self, batch_size: usize) -> usize {
        self.frontal.len().div_ceil(frontal_in(batch_size))
    }

    /// The order of the frontal images in an epoch.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.frontal.len()).collect();
        Random::stream(seed, &format!("order {epoch}")).shuffle(&mut order);
        order
    }

    /// One batch of an epoch: three eighths frontal X-rays, the rest of everything else.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn batch(
        &self,
        batch_size: usize,
        order: &[usize],
        (seed, epoch, batch): (u64, u64, usize),
    ) -> Result<GateBatch, TrainingError> {
        let first = batch * frontal_in(batch_size);
        let drawn: Vec<(ImageKind, String, Vec<f32>)> = (0..batch_size)
            .into_par_iter()
            .map(|slot| {
                let random = &mut Random::stream(seed, &format!("picture {epoch} {batch} {slot}"));
                match slot < frontal_in(batch_size) {
                    true => {
                        // The last batch is filled from the beginning.
                        let image = &self.frontal[order[(first + slot) % order.len()]];
                        let picture = View::draw(random).of(&image.levels, random);
                        (ImageKind::Frontal, image.name.clone(), picture)
                    }
                    false => self.draw_other(random),
                }
            })
            .collect();
        let names = drawn.iter().map(|(_, name, _)| name.clone()).collect();
        let kinds = drawn.iter().map(|(kind, ..)| *kind as u32).collect();
        let pictures: Vec<f32> = drawn
            .into_iter()
            .flat_map(|(.., picture)| picture)
            .collect();
        Ok(GateBatch {
            pictures: Tensor::from_vec(pictures, (batch_size, 1, SIDE, SIDE), &Device::Cpu)?,
            kinds,
            names,
        })
    }

    /// A picture that is no upright frontal X-ray.
    fn draw_other(&self, random: &mut Random) -> (ImageKind, String, Vec<f32>) {
        let share = random.unit();
        let frontal = random.pick(&self.frontal);
        let view = View::draw(random);
        let (kind, name, view, levels) = if share < 0.24 {
            let quarters = 1 + random.below(3);
            let view = view.turned(quarters);
            (ImageKind::Turned, &*frontal.name, view, &*frontal.levels)
        } else if share < 0.44 {
            // Some of them are turned, too.
            let quarters = random.below(12).saturating_sub(8);
            let view = view.turned(quarters).inverted(true);
            (ImageKind::Inverted, &*frontal.name, view, &*frontal.levels)
        } else if share < 0.58 && !self.lateral.is_empty() {
            let lateral = random.pick(&self.lateral);
            (ImageKind::Lateral, &*lateral.name, view, &*lateral.levels)
        } else if share < 0.72 && !self.other.is_empty() {
            let other = random.pick(&self.other);
            let view = view.turned(random.below(8).saturating_sub(4));
            let view = view.inverted(random.unit() < 0.3);
            (ImageKind::Other, &*other.name, view, &*other.levels)
        } else if share < 0.8 {
            let levels = scrambled(&frontal.levels, random);
            let picture = view.of(&levels, random);
            return (ImageKind::Other, frontal.name.clone(), picture);
        } else if share < 0.86 {
            let view = View::draw_part(random);
            (ImageKind::Other, &*frontal.name, view, &*frontal.levels)
        } else {
            let picture = view.of(&drawing(random), random);
            return (ImageKind::Other, "drawn".to_owned(), picture);
        };
        (kind, name.to_owned(), view.of(levels, random))
    }

    /// The pictures that this side is measured by: its images as they are, and what is made of each frontal one.
    pub fn measured(&self, seed: u64) -> Vec<MeasuredPicture> {
        let picture = |group: &str, kind, image: &GateImage, levels| MeasuredPicture {
            group: group.to_owned(),
            kind,
            name: image.name.clone(),
            levels,
        };
        let mut measured: Vec<MeasuredPicture> = self
            .frontal
            .par_iter()
            .flat_map_iter(|image| {
                let random = &mut Random::stream(seed, &format!("measured {}", image.name));
                let group = format!("frontal: {}", image.source);
                let seen = |group: &str, kind, view: View| {
                    let levels = view.of(&image.levels, &mut Random::stream(seed, "plain"));
                    picture(group, kind, image, levels)
                };
                let turned = |quarters| View::PLAIN.turned(quarters);
                let inverted = View::PLAIN.inverted(true);
                let mut pictures = vec![
                    seen(&group, ImageKind::Frontal, View::PLAIN),
                    seen("turned by a quarter", ImageKind::Turned, turned(1)),
                    seen("turned by a half", ImageKind::Turned, turned(2)),
                    seen("turned by three quarters", ImageKind::Turned, turned(3)),
                    seen("inverted", ImageKind::Inverted, inverted),
                ];
                let tiles = View::PLAIN.of(&scrambled(&image.levels, random), random);
                pictures.push(picture("cut into tiles", ImageKind::Other, image, tiles));
                let part = View::draw_part(random).of(&image.levels, random);
                pictures.push(picture("a small part", ImageKind::Other, image, part));
                pictures
            })
            .collect();
        let images = [("lateral", &self.lateral), ("other", &self.other)];
        for (group, images) in images {
            measured.extend(images.iter().map(|image| {
                let levels = View::PLAIN.of(&image.levels, &mut Random::stream(seed, "plain"));
                picture(
                    &format!("{group}: {}", image.source),
                    image.kind,
                    image,
                    levels,
                )
            }));
        }
        // `test` has drawings of its own, as it has images.
        let side = if self.side == "test" { "test " } else { "" };
        let drawn = (0..DRAWINGS).into_par_iter().map(|number| {
            let random = &mut Random::stream(seed, &format!("measured {side}drawing {number}"));
            MeasuredPicture {
                group: "drawn".to_owned(),
                kind: ImageKind::Other,
                name: format!("drawn {number}"),
                levels: View::PLAIN.of(&drawing(random), random),
            }
        });
        measured.extend(drawn.collect::<Vec<_>>());
        measured
    }

    /// Frontal X-rays of this side as they are and otherwise, by which the threshold is chosen.
    pub fn views(&self, seed: u64) -> Vec<Vec<f32>> {
        let views = |image: &GateImage| -> Vec<Vec<f32>> {
            let random = &mut Random::stream(seed, &format!("views {}", image.name));
            let plain = View::PLAIN.of(&image.levels, random);
            let others = (0..VIEWS).map(|_| View::draw(random).of(&image.levels, random));
            [plain].into_iter().chain(others).collect()
        };
        self.frontal.par_iter().flat_map_iter(views).collect()
    }
}

/// Levels as the gate reads them, `[B, 1, 64, 64]`.
///
/// # Errors
/// None but the tensor library's.
pub fn stacked<'a>(levels: impl Iterator<Item = &'a [f32]>) -> Result<Tensor, TrainingError> {
    let levels: Vec<f32> = levels.flatten().copied().collect();
    let count = levels.len() / (SIDE * SIDE);
    Ok(Tensor::from_vec(
        levels,
        (count, 1, SIDE, SIDE),
        &Device::Cpu,
    )?)
}

/// Frontal X-rays in a batch.
fn frontal_in(batch_size: usize) -> usize {
    batch_size * FRONTAL / EIGHTHS
}
