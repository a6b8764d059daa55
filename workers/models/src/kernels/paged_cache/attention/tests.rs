//! Attention over pages against its definition, and against itself in other company and with other instructions.

use std::sync::Arc;

use super::*;

const EACH: [Numbers; 2] = [Numbers::Halves, Numbers::Floats];

fn shape(width: usize) -> CacheShape {
    CacheShape {
        layers: 2,
        heads: 2,
        width,
    }
}

fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.7 + phase).sin()).collect()
}

fn written(numbers: Numbers, all: usize) -> PagedCache {
    let mut cache = PagedCache::new(shape(16), numbers);
    cache.write(1, 0, &wave(all * 32, 1.0), &wave(all * 32, 2.0));
    cache
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn attention_is_the_textbook_form(numbers: Numbers) {
    let (all, new) = (45, 7);
    let (cache, queries) = (written(numbers, all), wave(new * 64, 0.0));
    let (keys, values) = (wave(all * 32, 1.0), wave(all * 32, 2.0));
    let kept = |value: f32| match numbers {
        Numbers::Halves => f64::from(f16::from_f32(value).to_f32()),
        Numbers::Floats => f64::from(value),
    };
    let sequence = Attended {
        cache: &cache,
        all,
        queries: &queries,
    };
    let found = attend(1, &[sequence], 4);
    for row in 0..new {
        for head in 0..4 {
            let at =
                |of: &[f32], position: usize, i: usize| kept(of[position * 32 + head / 2 * 16 + i]);
            let query = |i: usize| f64::from(queries[row * 64 + head * 16 + i]);
            let weights: Vec<f64> = (0..all - new + row + 1)
                .map(|p| (0..16).map(|i| query(i) * at(&keys, p, i)).sum::<f64>() / 4.0)
                .map(f64::exp)
                .collect();
            let sum: f64 = weights.iter().sum();
            for i in 0..16 {
                let pairs = weights.iter().enumerate();
                let expected: f64 = pairs.map(|(p, w)| w / sum * at(&values, p, i)).sum();
                let found = f64::from(found[row * 64 + head * 16 + i]);
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}

#[test]
fn attention_is_the_textbook_form_of_what_half_precision_keeps() {
    attention_is_the_textbook_form(Numbers::Halves);
}

#[test]
fn attention_is_the_textbook_form_of_what_is_kept_whole() {
    attention_is_the_textbook_form(Numbers::Floats);
}

#[test]
fn a_position_has_the_same_bits_alone_and_with_others_and_on_shared_pages() {
    for numbers in EACH {
        same_bits_in_any_company(numbers);
    }
}

fn same_bits_in_any_company(numbers: Numbers) {
    let (all, new) = (70, 9);
    let (cache, queries) = (written(numbers, all), wave(new * 64, 0.0));
    let whole = |cache, all, queries| Attended {
        cache,
        all,
        queries,
    };
    let together = attend(1, &[whole(&cache, all, &queries)], 4);
    let mut other = cache.beginning(66);
    other.write(1, 66, &wave(4 * 32, 9.0), &wave(4 * 32, 8.0));
    // Only what was written to is copied.
    let pages = cache.pages.iter().zip(&other.pages);
    let shared: Vec<_> = pages.map(|(own, other)| Arc::ptr_eq(own, other)).collect();
    assert_eq!(shared, [true, true, false], "{numbers:?}");
    for row in 0..new {
        let own = &queries[row * 64..][..64];
        let parts = [
            whole(&other, 70, own),
            whole(&cache, all - new + row + 1, own),
        ];
        let found = attend(1, &parts, 4);
        let expected = &together[row * 64..][..64];
        assert_eq!(bits(&found[64..]), bits(expected), "{numbers:?}");
    }
}

/// The products and sums of one row, as they are defined.
fn plain(cache: &PagedCache, all: usize, query: &[f32], head: usize) -> Vec<f32> {
    let width = query.len();
    let number = |which: Which, position: usize, at: usize| {
        let block = cache.block(position / PAGE, 1, which, head);
        let place = match which {
            Which::Keys => at * PAGE + position % PAGE,
            Which::Values => position % PAGE * width + at,
        };
        match block {
            Block::Halves(halves) => f16::from_bits(halves[place]).to_f32(),
            Block::Floats(floats) => floats[place],
        }
    };
    let mut scores: Vec<f32> = (0..all)
        .map(|position| {
            let whole = width / STRIDED * STRIDED;
            let mut sums = [0f32; STRIDED];
            for at in 0..whole {
                let sum = &mut sums[at % STRIDED];
                *sum = query[at].mul_add(number(Which::Keys, position, at), *sum);
            }
            let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
            let sum = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7));
            (whole..width).fold(sum, |sum, at| {
                query[at].mul_add(number(Which::Keys, position, at), sum)
            })
        })
        .collect();
    let (largest, root) = (
        scores.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        (width as f32).sqrt(),
    );
    for score in &mut scores {
        *score = ((*score - largest) / root).exp();
    }
    let sum: f32 = scores.iter().sum();
    for score in &mut scores {
        match cache.numbers {
            Numbers::Halves => *score *= 1.0 / sum,
            Numbers::Floats => *score /= sum,
        }
    }
    let mut out = vec![0f32; width];
    for (position, weight) in scores.iter().enumerate() {
        for (at, sum) in out.iter_mut().enumerate() {
            *sum = weight.mul_add(number(Which::Values, position, at), *sum);
        }
    }
    out
}

#[test]
fn any_width_group_and_number_of_rows_has_the_same_bits_with_any_instructions() {
    for numbers in EACH {
        same_bits_with_any_instructions(numbers);
    }
}

fn same_bits_with_any_instructions(numbers: Numbers) {
    for (width, group, new, all) in [
        (16, 1, 1, 33),
        (64, 3, 1, 70),
        (64, 3, 37, 70),
        (128, 1, 5, 64),
        (84, 2, 9, 40),
        (10, 7, 20, 20),
    ] {
        let mut cache = PagedCache::new(shape(width), numbers);
        let (keys, values) = (wave(all * 2 * width, 1.0), wave(all * 2 * width, 2.0));
        cache.write(1, 0, &keys, &values);
        let queries = wave(new * 2 * group * width, 0.5);
        let expected: Vec<f32> = queries
            .chunks_exact(width)
            .enumerate()
            .flat_map(|(row, query)| {
                let (position, head) = (row / (2 * group), row % (2 * group));
                plain(&cache, all - new + position + 1, query, head / group)
            })
            .collect();
        let sequence = [Attended {
            cache: &cache,
            all,
            queries: &queries,
        }];
        for features in Features::each() {
            let found = attend_with(features, 1, &sequence, 2 * group);
            assert_eq!(
                bits(&found),
                bits(&expected),
                "{numbers:?} {width} {group} {new} {features:?}"
            );
        }
    }
}
