//! Attention over pages against its definition, and against itself in other company and with other instructions.

use super::*;

const SHAPE: CacheShape = CacheShape {
    layers: 2,
    heads: 2,
    width: 16,
};

fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.7 + phase).sin()).collect()
}

fn written(all: usize) -> PagedCache {
    let mut cache = PagedCache::new(SHAPE);
    cache.write(1, 0, &wave(all * 32, 1.0), &wave(all * 32, 2.0));
    cache
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn attention_is_the_textbook_form_of_what_half_precision_keeps() {
    let (all, new) = (45, 7);
    let (cache, queries) = (written(all), wave(new * 64, 0.0));
    let (keys, values) = (wave(all * 32, 1.0), wave(all * 32, 2.0));
    let half = |value: f32| f64::from(f16::from_f32(value).to_f32());
    let sequence = Attended {
        cache: &cache,
        all,
        queries: &queries,
    };
    let found = attend(1, &[sequence], 4);
    for row in 0..new {
        for head in 0..4 {
            let at =
                |of: &[f32], position: usize, i: usize| half(of[position * 32 + head / 2 * 16 + i]);
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
fn a_position_has_the_same_bits_alone_and_with_others_and_on_shared_pages() {
    let (all, new) = (70, 9);
    let (cache, queries) = (written(all), wave(new * 64, 0.0));
    let whole = |cache, all, queries| Attended {
        cache,
        all,
        queries,
    };
    let together = attend(1, &[whole(&cache, all, &queries)], 4);
    let mut other = cache.beginning(66);
    other.write(1, 66, &wave(4 * 32, 9.0), &wave(4 * 32, 8.0));
    for row in 0..new {
        let own = &queries[row * 64..][..64];
        let parts = [
            whole(&other, 70, own),
            whole(&cache, all - new + row + 1, own),
        ];
        let found = attend(1, &parts, 4);
        assert_eq!(bits(&found[64..]), bits(&together[row * 64..][..64]));
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
        f16::from_bits(block[place]).to_f32()
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
    softmax(&mut scores, (width as f32).sqrt());
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
    for (width, group, new, all) in [
        (16, 1, 1, 33),
        (64, 3, 1, 70),
        (64, 3, 37, 70),
        (128, 1, 5, 64),
        (84, 2, 9, 40),
        (10, 7, 20, 20),
    ] {
        let shape = CacheShape {
            layers: 2,
            heads: 2,
            width,
        };
        let mut cache = PagedCache::new(shape);
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
                "{width} {group} {new} {features:?}"
            );
        }
    }
}
