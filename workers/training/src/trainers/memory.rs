//! The memory that a step of the findings classifier takes on a CPU, told before the start: at 448 pixels a batch of eight
//! takes gigabytes, and a process that the system ends for that says nothing.

use std::fs;
use std::path::Path;

use radialog_models::vision::VisionConfig;

/// Bytes of a value.
const VALUE: f64 = 4.0;
/// Bottlenecks of the four stages of the trunk, a ResNet-50.
const BLOCKS: [usize; 4] = [3, 4, 6, 3];
/// A bottleneck's output is this many times as wide as its middle.
const EXPANSION: f64 = 4.0;
/// Copies of the weights: themselves, their gradient, AdamW's two moments, packed ones, and what an update holds.
const COPIES: f64 = 8.0;

/// What a process was seen to take for each image beside the values that are counted: the image itself, and what layers hold for
/// a while.
const UNCOUNTED: f64 = 1.05;

/// Bytes that a step over a batch of images takes, about: what is kept of it until its gradients are back, and the weights.
/// A process was seen at 1.7 GiB for two images of 448 pixels, and at 4.7 GiB for eight; `cargo benchmark training -- peak` prints
/// what one takes for two images of 488.
pub(crate) fn of_step(vision: &VisionConfig, batch: usize) -> u64 {
    let (values, weights) = trunk(vision);
    (VALUE * (values * UNCOUNTED * batch as f64 + weights * COPIES)) as u64
}

/// Values that are kept of one image until the gradients are back, and weights.
fn trunk(vision: &VisionConfig) -> (f64, f64) {
    let stem = vision.stem_width as f64;
    let halved = |side: usize| side.div_ceil(2);
    let area = |side: usize| (side * side) as f64;
    let mut side = halved(vision.image_size);
    // A convolution, its norm and its activation, whose patches are made a block at a time. Two of the three are kept; the
    // third stands for the gradients that are there for a while.
    let mut values = area(side) * 3.0 * stem;
    let mut weights = 147.0 * stem;
    side = halved(side);
    values += area(side) * stem;
    let mut input = stem;
    for (stage, blocks) in BLOCKS.into_iter().enumerate() {
        let middle = stem * f64::from(1 << stage);
        let output = EXPANSION * middle;
        for block in 0..blocks {
            let before = side;
            if stage > 0 && block == 0 {
                side = halved(side);
            }
            // 1 x 1 at the size before the stride, 3 x 3, 1 x 1, and the sum of both ways.
            values += area(before) * 3.0 * middle;
            values += area(side) * (3.0 * middle + 3.0 * output);
            weights += input * middle + 9.0 * middle * middle + middle * output;
            if block == 0 {
                values += area(side) * 2.0 * output;
                weights += input * output;
            }
            input = output;
        }
    }
    (values, weights)
}

/// Bytes that this process can have: what the system has free, or what its control group leaves it where that is less. None
/// where neither is known.
pub(crate) fn available() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let system = system.map(|kilobytes| kilobytes << 10);
    let number = |name: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = number("memory.max").zip(number("memory.current"));
    let group = group.map(|(most, used)| most.saturating_sub(used));
    [system, group].into_iter().flatten().min()
}

/// What a user should know before the first step over batches of this size, where so many bytes are free.
pub(crate) fn note(vision: &VisionConfig, batch: usize, free: u64) -> Option<String> {
    let (needed, side) = (of_step(vision, batch), vision.image_size);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    if needed < free / 2 {
        return None;
    }
    let advice = match needed > free {
        true => format!(
            ", which is too much: {} would fit; give accumulation as many times more",
            fitting(vision, free).map_or("no batch".to_owned(), |batch| format!(
                "batch_size = {batch}"
            ))
        ),
        false => String::new(),
    };
    Some(format!(
        "a step over {batch} images of {side} pixels takes about {:.1} GiB of memory; {:.1} GiB are free{advice}",
        gib(needed),
        gib(free)
    ))
}

/// The largest batch of two or more that takes three quarters of so many bytes at most.
pub(crate) fn fitting(vision: &VisionConfig, free: u64) -> Option<usize> {
    let fits = |batch: &usize| of_step(vision, *batch) <= free / 4 * 3;
    (1..=10).map(|power| 1 << power).take_while(fits).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_the_batch_and_what_fits_is_below_what_is_free() {
        let published = VisionConfig::published();
        let gib = |batch| of_step(&published, batch) as f64 / f64::from(1 << 30);
        // As a process was seen. No patches: of one image they would be another 0.2 GiB.
        assert!((1.65..1.75).contains(&gib(2)), "{}", gib(2));
        assert!((4.65..4.75).contains(&gib(8)), "{}", gib(8));
        assert!(gib(16) > 1.8 * gib(8));
        assert_eq!(fitting(&published, 4 << 30), Some(4));
        assert_eq!(fitting(&published, 1 << 20), None);
        let small = VisionConfig {
            image_size: 64,
            stem_width: 16,
            ..published
        };
        assert!(of_step(&small, 32) < 1 << 28);
    }

    #[test]
    fn what_takes_half_of_the_free_memory_is_told_and_what_would_fit_where_it_is_too_much() {
        let published = VisionConfig::published();
        let told = |batch, gib: u64| note(&published, batch, gib << 30);
        assert_eq!(told(2, 32), None, "nobody needs to know");
        let enough = told(8, 6).unwrap();
        let begins = "a step over 8 images of 448 pixels takes about 4.7 GiB of memory; ";
        assert_eq!(enough, format!("{begins}6.0 GiB are free"));
        let advice =
            "which is too much: batch_size = 2 would fit; give accumulation as many times more";
        assert_eq!(
            told(8, 3).unwrap(),
            format!("{begins}3.0 GiB are free, {advice}")
        );
        let none = told(8, 1).unwrap();
        assert!(none.contains("no batch would fit"), "{none}");
    }
}
